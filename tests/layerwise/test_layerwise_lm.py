"""A trained language model, pruned without training on text that it has written itself."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robustprune
from robustprune.layerwise import prune_layerwise
from robustprune.lm import perplexity

pytest.importorskip("transformers")
MODEL = Path(robustprune.__file__).parent / "data" / "lm" / "stories260K"


def written_by(model: Any, number: int, length: int) -> Tensor:
    """Windows (number, length) of tokens that the model draws from its own distribution."""
    begin = torch.ones(number, 1, dtype=torch.long)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ids: Tensor = model.generate(
            begin, attention_mask=begin, do_sample=True, top_k=0, pad_token_id=2,
            min_new_tokens=length - 1, max_new_tokens=length - 1,
        )  # fmt: skip
    return ids


def test_who_repairs_more_loses_less() -> None:
    """At half of the weights: the largest weights; Wanda's, which looks at inputs; weights by least
    squares; the target that makes up for what is missing in the stream; the outputs that the loss
    feels."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL)
    calibration, other = written_by(model, 64, 64).split(32)
    options: tuple[dict[str, Any], ...] = (
        {"target": "residual", "outputs": "fisher"},
        {"target": "residual"},
        {"target": "own"},
        {"target": "own", "solver": "wanda"},
        {"target": "own", "solver": "magnitude"},
    )
    found = [perplexity(model, other).value]
    for option in options:
        ticket = prune_layerwise(
            model, [{"input_ids": calibration}], density=0.5, dense=("last",), **option
        )
        assert abs(ticket.masks.density - 0.5) < 1e-3
        found.append(perplexity(ticket.model, other).value)
    assert all(1.1 * less < more for less, more in pairwise(found)), found
