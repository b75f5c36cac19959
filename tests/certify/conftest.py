"""A finished run with certificates of both kinds, made once."""

from pathlib import Path

import pytest

from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.run.config import parse_config

CERTIFIED = {
    "name": "certified",
    "task": {"name": "ecg200", "batch_size": 50},
    "model": {"name": "mlp", "options": {"hidden": [24]}},
    "inner": {"steps": 2},
    "natural": {"epochs": 1},
    "adversarial": {"epochs": 1},
    "search": {"density": [0.5], "epochs": 15, "optimizer": {"lr": 0.5}},
    "finetune": {"modes": []},
    "evaluation": {"steps": 2, "restarts": 1, "curve": False},
    "certify": {"method": "crown", "examples": 8, "sigma": 2.0, "n": 500, "alpha": 0.01},
}


@pytest.fixture(scope="session")
def certified_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder; copy it before changing anything."""
    out = tmp_path_factory.mktemp("certified")
    run = prepare(parse_config(CERTIFIED), out=out, quiet=True)
    find_sparse_networks(run)
    return run.folder.path
