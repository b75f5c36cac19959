"""A weight average in every search: of what moves in it, scores or weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks import FGSM, ThreatModel
from robustprune.minmax import Ard, Natural, OptimizerSpec
from robustprune.minmax.finite import first_weight
from robustprune.search import Ticket, find_scratch_ticket, prune_admm, prune_scores, train_sparse
from robustprune.search.admm import Admm
from robustprune.search.popup import ScoreTopK
from robustprune.sparsity import count_kept

DECAY = 0.6


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def batches() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return list(zip(x.split(4), y.split(4), strict=True))


def averaged(values: list[Tensor]) -> Tensor:
    """θ̄ ← d θ̄ + (1 − d) θ with d = min(decay, (1 + t)/(10 + t)), written out."""
    mean = values[0]
    for t, value in enumerate(values[1:], start=1):
        decay = min(DECAY, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * value
    return mean


@pytest.mark.parametrize("search", [find_scratch_ticket, prune_scores])
def test_the_mask_is_that_of_the_averaged_scores(
    search: Callable[..., Ticket], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, list[Tensor]] = {}

    def keep(constraint: ScoreTopK) -> None:
        for name, popup in constraint.popups.items():
            kept.setdefault(name, []).append(popup.score.detach().clone())

    before = ScoreTopK.after_step
    monkeypatch.setattr(
        ScoreTopK, "after_step", lambda self, *args: (before(self, *args), keep(self))[0]
    )
    start = ScoreTopK.parameters
    monkeypatch.setattr(ScoreTopK, "parameters", lambda self: (keep(self), start(self))[1])
    found = search(
        network(), batches(), density=0.5, objective=Natural(), epochs=3, quiet=True,
        optimizer=OptimizerSpec(lr=10.0, schedule="constant"), average=DECAY,
    )  # fmt: skip
    last_alone = []
    for name, mask in found.masks.items():
        assert len(kept[name]) == 1 + 3 * 8
        count = count_kept(0.5, mask.numel())
        expected = averaged(kept[name]).abs().flatten().topk(count).indices
        assert set(mask.flatten().nonzero().flatten().tolist()) == set(expected.tolist())
        last = kept[name][-1].abs().flatten().topk(count).indices
        last_alone.append(set(last.tolist()) == set(expected.tolist()))
    assert not all(last_alone)


@pytest.mark.parametrize("how", [{"density": 0.5}, {"l1": 1e-3}])
def test_admm_returns_the_averaged_weights(
    how: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: [value.clone()] for name, value in network().state_dict().items()}

    def keep(constraint: Admm, model: nn.Module, step: int) -> None:
        for name, value in model.state_dict().items():
            kept[name].append(value.clone())

    monkeypatch.setattr(Admm, "after_step", keep)
    found = prune_admm(
        network(), batches(), objective=Natural(), epochs=2, every=1, quiet=True, average=DECAY,
        optimizer=OptimizerSpec(lr=0.5, schedule="constant"), **how,
    )  # fmt: skip
    for name, value in found.model.state_dict().items():
        assert len(kept[name]) == 1 + 2 * 8
        mask = found.masks[name] if name in found.masks else torch.ones_like(value).bool()
        torch.testing.assert_close(value, averaged(kept[name]) * mask, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(value, kept[name][-1] * mask, atol=1e-4)


class Attends(nn.Module):
    """Each feature sees those before it, by a mask that is a buffer."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        allowed = torch.ones(4, 4).tril().bool()
        nothing = torch.zeros(4, 4).masked_fill(~allowed, -torch.inf)
        self.register_buffer("mask", allowed if dtype == torch.bool else nothing)

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.inner(x)[:, :, None] * x[:, None]
        if self.mask.dtype == torch.bool:
            pairs = pairs.masked_fill(~self.mask, -torch.inf)
        else:
            pairs = pairs + self.mask
        return (pairs.softmax(-1) * x[:, None]).sum(-1)


@pytest.mark.parametrize("average", [None, DECAY])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_of_attention_are_left_alone(dtype: torch.dtype, average: float | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Attends(dtype), nn.Linear(4, 2))
    found = train_sparse(
        model, batches(), density=0.5, objective=Natural(), epochs=2, every=2, quiet=True,
        optimizer=OptimizerSpec(lr=0.1, schedule="constant"), average=average,
    )  # fmt: skip
    assert torch.equal(found.model[0].mask, model[0].mask)
    assert all(bool(p.isfinite().all()) for p in found.model.parameters())
    assert found.history[-1].loss < found.history[0].loss
    Ard(found.model, FGSM(ThreatModel("linf", 0.1)))  # it may teach


def test_statistics_that_overflow_are_not_taken_for_a_mask() -> None:
    norm = nn.BatchNorm1d(2)
    assert first_weight(norm) is None
    norm.running_mean.fill_(-torch.inf)
    norm.running_var.fill_(torch.inf)
    assert first_weight(norm) == "weight running_var"
