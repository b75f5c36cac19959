"""A walk that is stopped goes on behind its last layer, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from attacks import PGD, ThreatModel
from robustprune.layerwise import SOLVERS, prune_layerwise
from robustprune.layerwise.problem import LayerProblem, Solution
from robustprune.layerwise.resume import Solved
from robustprune.minmax import Checkpoint
from robustprune.run.checkpoint import Damaged, save_tensors

LLAMA = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


class Stopped(BaseException):
    pass


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**LLAMA))
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2))


def data() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(40, (12, 20), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": part} for part in ids.split(6)]


class Solver:
    """ADMM, which stops before its `last`-th layer, and counts."""

    last: int | None = None
    times = 0

    def __call__(self, problem: LayerProblem) -> Solution:
        if self.times == self.last:
            raise Stopped
        self.times += 1
        return SOLVERS["admm"].solve(problem)


def stopping(last: int) -> Solver:
    solver = Solver()
    solver.last = last
    return solver


OPTIONS: dict[str, dict[str, Any]] = {
    "residual": {"target": "residual", "outputs": "fisher", "allocate": "global"},
    "by block": {"target": "own", "after": "block", "allocate": "owl"},
    "with biases": {"bias": True, "pattern": "2:4"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_stopped_walk_goes_on_bit_for_bit(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    asked = {"density": 0.5, "dense": ("last",), **options}
    model = network(name)
    whole = prune_layerwise(model, data(), solver=Solver(), **asked)
    layers = len(whole.masks)
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0, origin="test")
    done = 0
    for stop in (1, 4, 2):
        with pytest.raises(Stopped):
            prune_layerwise(model, data(), solver=stopping(stop), checkpoint=place, **asked)
        done += stop
        assert len(list(tmp_path.iterdir())) == done
    last = Solver()
    found = prune_layerwise(model, data(), solver=last, checkpoint=place, **asked)
    assert last.times == layers - done
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], tensor), key
    assert list(found.masks) == list(whole.masks)
    assert all(torch.equal(found.masks[key], mask) for key, mask in whole.masks.items())
    errors = [[(r.layer, r.epoch, r.loss) for r in t.history] for t in (found, whole)]
    assert errors[0] == errors[1]


def test_what_another_call_left_is_refused(tmp_path: Path) -> None:
    model, place = network("llama"), Checkpoint(tmp_path / "state.safetensors", seconds=0)
    prune_layerwise(model, data(), density=0.5, checkpoint=place)
    with pytest.raises(
        ValueError, match=r"is of another call: density is 0\.5 there and 0\.4 here"
    ):
        prune_layerwise(model, data(), density=0.4, checkpoint=place)
    with pytest.raises(ValueError, match="is of another call: model"):
        prune_layerwise(network("gpt2"), data(), density=0.5, checkpoint=place)
    net, attack = nn.Linear(4, 2), PGD(ThreatModel("linf", 0.1), steps=1)
    batches = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]
    with pytest.raises(ValueError, match="one walk, and sweeps=2"):
        prune_layerwise(net, batches, density=0.5, attack=attack, sweeps=2, checkpoint=place)
    file = tmp_path / "state-3.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(Damaged, match="state-3"):
        prune_layerwise(model, data(), density=0.5, checkpoint=place)


def test_a_file_without_layers_is_refused(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0, call={})
    save_tensors(tmp_path / "state-0.safetensors", {}, {"call": {}})
    with pytest.raises(ValueError, match=r"state-0\.safetensors has no layers of a pruning"):
        Solved(place)


def test_no_file_is_written_before_its_time(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "state.safetensors", seconds=1000)
    prune_layerwise(network("llama"), data(), density=0.5, checkpoint=place)
    assert not list(tmp_path.iterdir())
