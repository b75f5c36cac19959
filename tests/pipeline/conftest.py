"""A config small enough to run whole in a second or two."""

import pytest

from robustprune.run.config import Config, parse_config

SMALL = {
    "name": "small",
    "task": {"name": "ecg200", "batch_size": 50},
    "model": {"name": "fcn", "options": {"widths": [4, 6], "kernels": [5, 3]}},
    "inner": {"steps": 2},
    "natural": {"epochs": 2},
    "adversarial": {"epochs": 2},
    "search": {"density": [0.5], "epochs": 2, "optimizer": {"lr": 0.5}},
    "finetune": {"modes": ["inherit"], "epochs": 1},
    "evaluation": {"steps": 3, "restarts": 2},
}


@pytest.fixture
def small() -> Config:
    return parse_config(SMALL)
