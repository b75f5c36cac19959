"""Questions and summaries of a data folder: what is read, and what is refused."""

import re
from pathlib import Path

import pytest

from robustprune.measure import Summary
from robustprune.pipeline.trust_questions import Asks, read_asks


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("retrieval", "", "retrieval.jsonl has no lines"),
        ("retrieval", "{", "retrieval.jsonl, line 1: Expecting"),
        ("retrieval", "[" * 100_000, "retrieval.jsonl, line 1: "),
        ("retrieval", "7", 'line 1: "options" must be a list of two or more'),
        ("retrieval", '\n{"options": ["a", "b"], "answer": 2}', 'line 2: "answer" must be a place'),
        ("retrieval", '{"options": ["a", "a"], "answer": 0}', "no two the same"),
        ("retrieval", '{"options": ["a", "b"], "answer": 0}', '"context" must be a text'),
        ("summaries", '{"prompt": "a", "summary": " "}', 'line 1: "summary" must be a text'),
    ],
)
def test_questions_of_a_data_folder_are_refused_in_one_line(
    tmp_path: Path, file: str, content: str, said: str
) -> None:
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / f"{file}.jsonl").write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read_asks(tmp_path, 10)
    assert "\n" not in str(caught.value)


def test_questions_of_a_data_folder_follow_no_link_and_have_a_largest_size(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_asks(tmp_path, 10) == Asks()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.jsonl"
    elsewhere.write_text('{"prompt": "a", "summary": "b"}\n' * 3)
    (tmp_path / "questions").mkdir()
    file = tmp_path / "questions" / "summaries.jsonl"
    file.symlink_to(elsewhere)
    with pytest.raises(ValueError, match="symbolic link"):
        read_asks(tmp_path, 10)
    file.unlink()
    file.write_text(elsewhere.read_text())
    assert read_asks(tmp_path, 2).summaries == (Summary("a", "b"),) * 2
    monkeypatch.setattr("robustprune.pipeline.trust_questions.LARGEST", 10)
    with pytest.raises(ValueError, match="at most 10 are taken"):
        read_asks(tmp_path, 2)
