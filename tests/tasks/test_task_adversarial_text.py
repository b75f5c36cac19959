"""AdvGLUE and ANLI in the layout in which they were published, made here."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustprune.tasks.adversarial_text import adversarial_sets

NLI = ("contradiction", "entailment", "neutral")


class Lengths:
    """An encoder whose codes are the lengths of the sentences."""

    width = 4

    def __call__(self, first: Sequence[str], second: Sequence[str] | None = None) -> Tensor:
        pairs = zip(first, second or [""] * len(first), strict=True)
        rows = [[[len(a), 0, 0], [len(b), 0, 0]] for a, b in pairs]
        return torch.tensor(rows, dtype=torch.float32)


ADVGLUE = {
    "sst2": [
        {"idx": 0, "label": 1, "sentence": "fine"},
        {"idx": 1, "label": 0, "sentence": "awful film"},
    ],
    "qqp": [{"idx": 0, "label": 1, "question1": "who?", "question2": "whom?"}],
    "mnli": [
        {"idx": 0, "label": 0, "premise": "a b", "hypothesis": "a"},
        {"idx": 1, "label": 2, "premise": "a", "hypothesis": "not a"},
    ],
    "mnli-mm": [{"idx": 0, "label": 1, "premise": "c", "hypothesis": "dd"}],
    "qnli": [{"idx": 0, "label": 1, "question": "who?", "sentence": "nobody knows"}],
}
ROUND = [
    {"uid": "1", "context": "a b c", "hypothesis": "a", "label": "e", "reason": ""},
    {"uid": "2", "context": "a\u2028b", "hypothesis": "bb", "label": "c"},
    {"uid": "3", "context": "a", "hypothesis": "ccc", "label": "n"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "AdvGLUE").mkdir()
    (tmp_path / "AdvGLUE" / "dev.json").write_text(json.dumps(ADVGLUE))
    for part, place in (("R1", "ANLI"), ("R3", "anli_v1.0")):
        (tmp_path / place / part).mkdir(parents=True)
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROUND) + "\n\n"
        (tmp_path / place / part / "test.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def read(folder: Path, task: str, names: tuple[str, ...]) -> dict[str, list[tuple[int, int, str]]]:
    """(length of the first sentence, of the second, name of the class) of each example."""
    found = adversarial_sets(task, names, Lengths(), data_dir=folder)
    return {
        name: [
            (int(x[0, 0]), int(x[1, 0]), names[int(y)]) for x, y in zip(part.x, part.y, strict=True)
        ]
        for name, part in found.items()
    }


@pytest.mark.parametrize("task", ["sst2", "sst2_sample"])
def test_sentiment(folder: Path, task: str) -> None:
    assert read(folder, task, ("0", "1")) == {"AdvGLUE": [(4, 0, "1"), (10, 0, "0")]}


def test_pairs(folder: Path) -> None:
    assert read(folder, "qqp", ("0", "1")) == {"AdvGLUE": [(4, 5, "1")]}
    names = ("entailment", "not_entailment")
    assert read(folder, "qnli", names) == {"AdvGLUE": [(4, 12, "not_entailment")]}


def test_inference_has_both_sets_whatever_the_order_of_its_classes(folder: Path) -> None:
    anli = [(5, 1, "entailment"), (3, 2, "contradiction"), (1, 3, "neutral")]
    expected = {
        "AdvGLUE": [(3, 1, "entailment"), (1, 5, "contradiction"), (1, 2, "neutral")],
        "ANLI R1": anli,
        "ANLI R3": anli,
    }
    for names in (NLI, NLI[::-1]):
        assert read(folder, "mnli", names) == expected
    del expected["AdvGLUE"]
    assert read(folder, "text", NLI) == expected


def test_what_does_not_fit_is_left_out(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert read(folder, "ag_news", ("1", "2", "3", "4")) == {}
    assert read(folder, "sst2", ("bad", "good")) == {}
    assert read(tmp_path_factory.mktemp("empty"), "mnli", NLI) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "has no list 'sst2'"),
        ('{"sst2": []}', "has no list 'sst2'"),
        ('{"sst2": [{"label": 2, "sentence": "a"}]}', "entry 0 has the label 2; it must be one of"),
        ('{"sst2": [{"label": true, "sentence": "a"}]}', "has the label True"),
        ('{"sst2": [{"label": 1, "sentence": " "}]}', "entry 0 has no sentence in 'sentence'"),
        ('{"sst2": [7]}', "has the label None"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "AdvGLUE").mkdir()
    (tmp_path / "AdvGLUE" / "dev.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read(tmp_path, "sst2", ("0", "1"))
    assert "dev.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no lines"),
        ('{"context": "a", "hypothesis": "b", "label": "x"}', "line 1 has the label 'x'"),
        ('\n{"context": "a", "label": "e"}', "line 2 has no sentence in 'hypothesis'"),
        ("7", "line 1 has the label None"),
    ],
)
def test_a_bad_round_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "ANLI" / "R2").mkdir(parents=True)
    (tmp_path / "ANLI" / "R2" / "test.jsonl").write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read(tmp_path, "mnli", NLI)
    assert "test.jsonl" in str(caught.value)


def test_a_link_to_elsewhere_and_a_huge_file_are_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "dev.json"
    elsewhere.write_text(json.dumps(ADVGLUE))
    (tmp_path / "AdvGLUE").mkdir()
    (tmp_path / "AdvGLUE" / "dev.json").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="link"):
        read(tmp_path, "sst2", ("0", "1"))
    (tmp_path / "AdvGLUE" / "dev.json").unlink()
    (tmp_path / "AdvGLUE" / "dev.json").write_text(json.dumps(ADVGLUE))
    monkeypatch.setattr("robustprune.tasks.adversarial_text.LARGEST", 100)
    with pytest.raises(ValueError, match="at most 100 are taken"):
        read(tmp_path, "sst2", ("0", "1"))
