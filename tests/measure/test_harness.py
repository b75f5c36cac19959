"""Tasks of lm-eval on the packaged model, against our own likelihoods of the same answers.

lm-eval is not among the packages for tests, so most of them run only where it is installed.
"""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from robustprune.cli import main
from robustprune.measure import Question, harness_tasks, judge_continuations
from robustprune.models.causal import CausalModel, load_causal

QUESTIONS = [
    Question("Once upon a time, there was a little", (" girl", " of", " quickly"), 0),
    Question("Lily wanted to play with her", (" under", " friends", " said"), 1),
    Question("The cat sat on the", (" mat", " happy", " is"), 0),
    Question("They went home and ate some", (" ran", " because", " food"), 2),
    Question("Tim was very", (" dog", " the", " sad"), 2),
]
STORY = "Once upon a time there was a dog. The dog was very happy. He liked to run in the park."


@pytest.fixture(scope="module")
def language() -> CausalModel:
    return load_causal()


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a multiple choice and a text whose likelihood is asked for."""
    pytest.importorskip("lm_eval", reason="the extra 'harness' is not installed")
    rows = [{"context": q.context, "options": q.options, "answer": q.answer} for q in QUESTIONS]
    (tmp_path / "ends.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "whole.jsonl").write_text(json.dumps({"text": STORY}))
    common = "dataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: "
    (tmp_path / "ends.yaml").write_text(
        f"task: ends\n{common}{tmp_path / 'ends.jsonl'}\noutput_type: multiple_choice\n"
        'doc_to_text: "{{context}}"\ndoc_to_choice: "{{options}}"\ndoc_to_target: answer\n'
        'target_delimiter: ""\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n'
    )
    (tmp_path / "whole.yaml").write_text(
        f"task: whole\n{common}{tmp_path / 'whole.jsonl'}\noutput_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list:\n  - metric: byte_perplexity\n'
    )
    return tmp_path


def test_accuracy_and_perplexity_are_those_of_our_own_likelihoods(
    language: CausalModel, tasks: Path
) -> None:
    state = torch.random.get_rng_state()
    found = harness_tasks(language.network, language.tokenizer, ["ends", "whole"], folder=tasks)
    figures = {(one.task, one.metric): one for one in found}
    plain, by_length = 0, 0
    for question in QUESTIONS:
        start = [language.bos, *language.tokens(question.context)]
        ends = [[language.bos, *language.tokens(question.context + o)] for o in question.options]
        judged = judge_continuations(
            language.network, [start] * len(ends), [ids[len(start) :] for ids in ends]
        ).log_likelihood
        wide = torch.tensor([len(option) for option in question.options])
        plain += int(judged.argmax()) == question.answer
        by_length += int((judged / wide).argmax()) == question.answer
    assert figures["ends", "acc"].value == pytest.approx(plain / len(QUESTIONS))
    assert figures["ends", "acc_norm"].value == pytest.approx(by_length / len(QUESTIONS))
    share, n = plain / len(QUESTIONS), len(QUESTIONS)
    assert figures["ends", "acc"].se == pytest.approx(math.sqrt(share * (1 - share) / (n - 1)))
    assert figures["ends", "acc"].n == n
    assert figures["ends", "acc"].higher is True
    ids = [language.bos, *language.tokens(STORY)]  # lm-eval scores BOS as a token, too
    whole = judge_continuations(language.network, [[language.bos]], [ids]).log_likelihood
    expected = math.exp(-float(whole) / len(STORY.encode()))
    assert figures["whole", "byte_perplexity"].value == pytest.approx(expected, rel=1e-5)
    assert figures["whole", "byte_perplexity"].higher is False
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_command_runs_tasks(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tasks / "text.txt"
    text.write_text(STORY * 4)
    words = ["evaluate", "stories260K", "--data", str(text), "--set", "causal.window=32"]
    words += ["--examples", "2", "--device", "cpu", "--lm-eval", "ends"]
    assert main([*words, "--lm-eval-tasks", str(tasks), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(one["task"], one["metric"], one["n"]) for one in content["tasks"]] == [
        ("ends", "acc", 2),
        ("ends", "acc_norm", 2),
    ]
    assert main([*words, "--lm-eval-tasks", str(tasks)]) == 0
    assert "ends, acc_norm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [("end", "have no task 'end' (did you mean 'ends'?); use one of ends, whole"),
     ("elsewhere", "lm-eval cannot run elsewhere: ")],
)  # fmt: skip
def test_refusals(language: CausalModel, tasks: Path, name: str, said: str) -> None:
    if name == "elsewhere":  # a data set of the hub, which is not here
        task = (tasks / "ends.yaml").read_text().replace("task: ends", "task: elsewhere")
        task = task.replace("dataset_path: json", "dataset_path: nobody/nothing")
        (tasks / "elsewhere.yaml").write_text(task)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        harness_tasks(language.network, language.tokenizer, [name], folder=tasks)
    assert "\n" not in str(caught.value)


def test_without_the_library_one_line_says_so(
    language: CausalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    said = "tasks of lm-eval need that library; run pip install 'robustprune[harness]'"
    with pytest.raises(ValueError, match=re.escape(said)):
        harness_tasks(language.network, language.tokenizer, ["arc_easy"])
    words = ["evaluate", "stories260K", "--config", "lm_stories", "--lm-eval", "arc_easy"]
    assert main([*words, "--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stories260K", "--lm-eval-tasks", "."], "--lm-eval-tasks has no effect without"),
        (["nets:build", "--lm-eval", "arc_easy"], "--lm-eval has no effect on a classifier"),
    ],
)
def test_options_without_effect_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *words, "--config", "lm_stories", "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err
