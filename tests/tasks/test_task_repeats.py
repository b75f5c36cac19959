"""Test examples that are training examples, too, are counted and told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustprune.pipeline.prepare import planned_run
from robustprune.run.config import parse_config
from robustprune.tasks import Split, load_task, told_repeats
from robustprune.tasks.repeats import repeats

ROWS = st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=2, max_size=2), min_size=1)


@given(train=ROWS, test=ROWS)
def test_repeats_are_counted(train: list[list[float]], test: list[list[float]]) -> None:
    found = repeats(torch.tensor(train).unsqueeze(1), torch.tensor(test).unsqueeze(1))
    assert found == sum(row in train for row in test)


def test_a_task_with_repeats_says_so() -> None:
    task = load_task("ecg200")
    assert told_repeats(task) is task
    x, y = task.train.batch(slice(3))
    both = replace(task, test=Split(torch.cat([task.test.x, x]), torch.cat([task.test.y, y])))
    said = "3 of 103 test examples are training examples, too"
    with pytest.warns(UserWarning, match=f"task 'ecg200': {said}; what is measured on them says"):
        told = told_repeats(both)
    assert told.source == f"{task.source}; {said}"


def test_a_run_tells_it_of_a_users_file(tmp_path: Path) -> None:
    rows = [f"{'ab'[i % 2]},{i % 25},{i % 25}" for i in range(50)]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    task = {"name": "csv", "path": str(tmp_path / "own.csv"), "layout": "flat", "test": 0.2}
    config = parse_config({"task": task, "model": {"name": "mlp"}})
    with pytest.warns(UserWarning, match=r"of 10 test examples are training examples, too"):
        planned_run(config, out=tmp_path, quiet=True)
