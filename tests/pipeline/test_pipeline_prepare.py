"""What a prepared run hands to its stages."""

from __future__ import annotations

from pathlib import Path

import torch

from robustprune.models import build_model
from robustprune.pipeline.prepare import planned_run
from robustprune.run.config import parse_config


def test_building_a_network_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    config = parse_config({"model": {"options": {"widths": [2], "kernels": [3]}}})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run = planned_run(config, out=tmp_path, quiet=True)
    assert torch.equal(torch.get_rng_state(), before)
    first = run.fresh_model().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = run.fresh_model(seeded=True).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(config.seed)
    build_model("fcn", run.task, options=config.model.options)
    after = torch.get_rng_state()
    run.fresh_model(seeded=True)
    assert torch.equal(torch.get_rng_state(), after)
