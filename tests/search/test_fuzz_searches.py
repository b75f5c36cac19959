"""Networks of every kind × searches × patterns × allocations: exact counts on plain weights that
train, the caller's network untouched, or a refusal of one line before the first batch is read."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from attacks.network import unwrapped
from robustprune.minmax import Natural, OptimizerSpec
from robustprune.search import (
    Ticket,
    find_language_ticket,
    find_lottery_ticket,
    find_scratch_ticket,
    finetune_ticket,
    prune_admm,
    prune_one_shot,
    prune_scores,
    prune_twin,
    prune_woodfisher,
)
from robustprune.sparsity import (
    Allocation,
    Folded,
    LeftOut,
    apply_masks,
    count_kept,
    full_masks,
    groups_of,
    maskable_layers,
    plain,
)

WIDTH = 5
DENSITIES = (0.3, 0.5, 0.07, 1.0)


def _old(name: str) -> Callable[[nn.Module], nn.Module]:
    def wrap(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return getattr(nn.utils, name)(layer)

    return wrap


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda layer: layer,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": _old("weight_norm"),
    "old spectral_norm": _old("spectral_norm"),
    "torch prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.4),
}


class Net(nn.Module):
    """Some body, then a head; x is (N, WIDTH)."""

    def __init__(self, body: nn.Module, width: int, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.body = body
        self.head = wrap(nn.Linear(width, 3))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x * self.scale)
        return self.head(hidden[0] if isinstance(hidden, tuple) else hidden)


def _tied() -> nn.Module:
    one, two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    two.weight = one.weight
    return nn.Sequential(one, nn.Tanh(), two)


def _shared() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(layer, nn.Tanh(), layer)


def _convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(),
        nn.ConvTranspose1d(4, 2, 3, padding=1, groups=2), nn.Flatten(),
    )  # fmt: skip


class _Itself(nn.MultiheadAttention):
    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


BODIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(WIDTH, 7), nn.ReLU(inplace=True)), 7),
    "convolution": (_convolution, 2 * WIDTH),
    "tied": (_tied, WIDTH),
    "shared": (_shared, WIDTH),
    "LSTM": (lambda: nn.LSTM(WIDTH, 4), 4),
    "GRU": (lambda: nn.GRU(WIDTH, 3, 2, bidirectional=True), 6),
    "attention": (lambda: _Itself(WIDTH), WIDTH),
    "nothing": (nn.Identity, WIDTH),
}


@dataclass(frozen=True)
class Case:
    body: str
    wrap: str
    outer: str
    dtype: torch.dtype
    frozen: bool
    training: bool
    used: bool
    search: str
    pattern: str
    allocate: str
    density: float

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        make, width = BODIES[self.body]
        model: nn.Module = Net(make(), width, WRAPS[self.wrap])
        model.to(self.dtype).train(self.training).requires_grad_(not self.frozen)
        if self.used:
            model(torch.randn(4, WIDTH, dtype=self.dtype))
        if self.outer == "compile":
            return torch.compile(model, backend="eager")  # type: ignore[return-value]
        return nn.DataParallel(model) if self.outer == "DataParallel" else model

    def refused(self) -> str | None:
        """What the refusal must speak of; None where the search has to work."""
        if self.search == "admm, l1" and (self.pattern, self.allocate) != ("element", "layer"):
            return "has no effect"
        if self.search == "harp" and ":" in self.pattern:
            return "harp learns each layer's rate"
        if ":" in self.pattern and self.allocate != "layer" and self.search != "language":
            return "has no effect"
        if self.allocate == "row" and self.search == "harp":
            return "has no effect"
        alone = self.pattern == "kernel" and self.body == "convolution"  # of one input
        if self.allocate == "row" and (alone or self.pattern not in ("element", "kernel")):
            return None if self.search == "language" else "allocate='row' compares"
        return None


def cases() -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        body=st.sampled_from(list(BODIES)),
        wrap=st.sampled_from(list(WRAPS)),
        outer=st.sampled_from(["bare", "compile", "DataParallel"]),
        dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
        frozen=st.booleans(),
        training=st.booleans(),
        used=st.booleans(),
        search=st.sampled_from(list(SEARCHES)),
        pattern=st.sampled_from(["element", "row", "kernel", "filter", "column", "2x2", "2:4"]),
        allocate=st.sampled_from(["layer", "row", "global", "erk", "given"]),
        density=st.sampled_from(DENSITIES),
    )


class Counted:
    """Two batches; counts how often they are read."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8, WIDTH, generator=generator).to(dtype)
        self.batches, self.read = [*zip(x.split(4), (torch.arange(8) % 3).split(4), strict=True)], 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.read += 1
        return iter(self.batches)


SPEC = OptimizerSpec(lr=0.05, schedule="constant")
TRAINED: dict = {"objective": Natural(), "epochs": 1, "optimizer": SPEC, "quiet": True}
SEARCHES: dict[str, Callable[..., Ticket]] = {
    "rst": lambda *a, **k: find_scratch_ticket(*a, **k, **TRAINED),
    "rst, own weights": lambda *a, **k: find_scratch_ticket(*a, init=None, **k, **TRAINED),
    "rst, fan scaling": lambda *a, **k: find_scratch_ticket(*a, fan_scaling=True, **k, **TRAINED),
    "hydra": lambda *a, **k: prune_scores(*a, **k, **TRAINED),
    "harp": lambda *a, **k: prune_scores(*a, method="harp", **k, **TRAINED),
    "admm": lambda *a, **k: prune_admm(*a, every=1, **k, **TRAINED),
    "admm, bits": lambda *a, **k: prune_admm(*a, every=1, bits=2, **k, **{**TRAINED, "epochs": 2}),
    "admm, l1": lambda *a, density, **k: prune_admm(*a, l1=1e-4, every=1, **k, **TRAINED),
    "lottery": lambda *a, **k: find_lottery_ticket(
        *a, rounds=1 if ":" in k["pattern"] else 2, **k, **TRAINED
    ),
    "language": lambda *a, density, **k: find_language_ticket(
        *a, density=density, dense=(), **TRAINED
    ),
    "twin": lambda *a, **k: prune_twin(*a, **k, **{**TRAINED, "epochs": 2}),
    "magnitude": prune_one_shot,
    "random": lambda *a, **k: prune_one_shot(*a, criterion="random", **k),
    "snip": lambda *a, **k: prune_one_shot(*a, criterion="snip", objective=Natural(), **k),
    "obd_ggn": lambda *a, **k: prune_one_shot(*a, criterion="obd_ggn", **k),
    "woodfisher": lambda *a, **k: prune_woodfisher(
        *a, steps=1 if ":" in k["pattern"] else 2, damping=0.1, **k
    ),
}


def state(model: nn.Module) -> dict[str, object]:
    """Everything about the caller's network that a search could spoil."""
    found: dict[str, object] = {k: v.clone() for k, v in model.state_dict().items()}
    for name, module in model.named_modules():
        found[f"{name} is"] = (type(module), module.training, list(module._parameters))
        found[f"{name} hooks"] = [*module._forward_pre_hooks, *module._forward_hooks]
    return found | {f"{n} trains": p.requires_grad for n, p in model.named_parameters()}


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, Tensor) else v == b[k]  # type: ignore[arg-type]
        for k, v in a.items()
    )


def right_counts(case: Case, layers: dict[str, nn.Module], ticket: Ticket) -> None:
    """Whole groups are kept, as many as the density says, in each layer or in all."""
    kept, numbers, stacked, rows = {}, {}, {}, {}
    for name, layer in layers.items():
        pattern = "element" if case.search == "language" else case.pattern
        groups = groups_of({name: layer}, pattern)[name]
        sums = groups.reduce(ticket.masks[name].float())
        assert bool(((sums == 0) | (sums == groups.reduce(torch.ones(groups.shape)))).all())
        kept[name], numbers[name] = int((sums > 0).sum()), groups.number
        stacked[name], rows[name] = groups.stacked, groups.out_first[0]
        if groups.fixed is not None:
            assert kept[name] == groups.fixed
    times = rows if case.allocate == "row" else stacked
    wanted = {n: t * count_kept(case.density, numbers[n] // t) for n, t in times.items()}
    if case.search == "admm, l1":
        assert min(kept.values()) >= 1
    elif case.search == "language":
        assert sum(kept.values()) == count_kept(case.density, sum(numbers.values()))
    elif ":" in case.pattern:
        return
    elif case.search == "harp" or case.allocate in ("global", "erk"):
        total = count_kept(case.density, sum(numbers.values()))
        assert sum(kept.values()) == max(total, len(layers))
    else:
        assert kept == wanted


def check(case: Case) -> None:
    if ":" in case.pattern:
        case = replace(case, density=0.5)
    model = case.network()
    flat = plain(model)
    layers = maskable_layers(flat)
    loader = Counted(case.dtype)
    allocate: Allocation = (
        dict.fromkeys(layers, case.density) if case.allocate == "given" else case.allocate  # type: ignore[assignment]
    )
    options: dict = {"density": case.density, "pattern": case.pattern, "allocate": allocate}
    before, random = state(model), torch.random.get_rng_state()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("error")
        warnings.simplefilter("always", LeftOut)
        warnings.simplefilter("always", Folded)
        if (reason := case.refused()) is not None:
            with pytest.raises(ValueError, match=reason) as refusal:
                SEARCHES[case.search](model, loader, **options)
            assert "\n" not in str(refusal.value)
            assert loader.read == 0
            assert same(before, state(model))
            return
        ticket = SEARCHES[case.search](model, loader, **options)
    assert same(before, state(model))
    assert torch.equal(random, torch.random.get_rng_state())
    kinds = {warning.category for warning in said}
    assert (Folded in kinds) == (case.wrap != "none")
    assert (LeftOut in kinds) == (case.body == "tied")
    assert len(said) == len(kinds)
    right_counts(case, layers, ticket)
    # names of the author's own, plain weights that train, nothing left of hooks
    assert type(ticket.model) is type(unwrapped(model))
    assert dict(ticket.model.named_parameters()).keys() == dict(flat.named_parameters()).keys()
    for module in ticket.model.modules():
        assert not module._forward_pre_hooks
        assert not parametrize.is_parametrized(module)
    for name, parameter in ticket.model.named_parameters():
        assert parameter.requires_grad
        assert parameter.dtype == case.dtype
        if name in ticket.masks:
            assert bool((parameter[~ticket.masks[name]] == 0).all())
    covers = ticket.coverage
    assert covers.kept == ticket.masks.kept
    unmasked = sum(p.numel() for p in ticket.model.parameters()) - ticket.masks.total
    assert math.isclose(
        covers.whole_density, (unmasked + covers.kept) / (unmasked + ticket.masks.total)
    )
    if case.search in ("rst", "hydra", "magnitude"):
        decay = OptimizerSpec(lr=0.5, weight_decay=0.1, schedule="constant")
        tuned = finetune_ticket(ticket, loader, Natural(), epochs=1, optimizer=decay, quiet=True)
        for name, mask in tuned.masks.items():
            old, new = ticket.model.get_parameter(name), tuned.model.get_parameter(name)
            assert bool((new[~mask] == 0).all())
            # decay moves whatever trains, even where no gradient comes
            assert bool((new[old != 0] != old[old != 0]).any()) or not bool(old.any())


@settings(max_examples=60)
@given(cases())
def test_every_search_on_every_network(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=1500)
@given(cases())
def test_many_more(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("what", ["TorchScript", "no parameters", "masked", "lazy"])
def test_what_cannot_be_searched_is_refused_first(search: str, what: str) -> None:
    model: nn.Module = nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Linear(4, 3))
    if what == "TorchScript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.jit.trace(model, torch.zeros(1, WIDTH))
    elif what == "no parameters":
        model = nn.BatchNorm1d(WIDTH, affine=False)
    elif what == "lazy":
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 3))
    else:
        apply_masks(model, full_masks(model))
    says = {
        "TorchScript": "is a TorchScript module",
        "no parameters": "has nothing to mask",
        "masked": r"is masked already: 0\.weight, 2\.weight; bake",
        "lazy": "has lazy layers without weights; call it on a batch first",
    }
    loader = Counted(torch.float32)
    with pytest.raises(ValueError, match=says[what]):
        SEARCHES[search](model, loader, density=0.5, pattern="element", allocate="layer")
    assert loader.read == 0
