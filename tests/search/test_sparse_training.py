"""What the training loop makes of sparse training: options together, resume, foreign networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_networks import ATTACK, THREAT, Watch, examples, network, trained
from torch import Tensor, nn

from robustprune.minmax import (
    Adversarial,
    Awp,
    Certified,
    Checkpoint,
    Mart,
    Natural,
    Trades,
    Validation,
)
from robustprune.minmax.average import WeightAverage
from robustprune.search import SPARSE_METHODS, Ticket, training_work
from robustprune.sparsity import (
    MaskSet,
    apply_masks,
    count_kept,
    groups_of,
    maskable_layers,
)
from robustprune.tasks import BatchLoader, Split

PATTERNS = {"element": 0.25, "row": 0.25, "channel": 0.5, "4x2": 0.5, "2:4": 0.5}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", SPARSE_METHODS)
def test_any_method_under_any_pattern(
    method: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "flyingbird_plus" and pattern == "2:4":
        with pytest.raises(ValueError, match="adapts the density, and pattern 2:4 fixes it"):
            trained(method, density=0.5, pattern=pattern)
        return
    watch, density = Watch(monkeypatch), PATTERNS[pattern]
    ticket = trained(method, density=density, pattern=pattern, attack=ATTACK)
    row = SPARSE_METHODS[method]
    groups = groups_of(maskable_layers(network()), pattern)
    for one in watch.updates:
        for name, mask in one["after"].items():
            alive = groups[name].reduce(mask.float()) > 0
            assert torch.equal(groups[name].expand(alive), mask)  # whole groups
            if not row.moves_density and not row.projected and not row.adaptive:
                assert mask.sum() == one["before"][name].sum()
    ever = {name: mask.clone() for name, mask in watch.updates[0]["before"].items()} if (
        watch.updates) else dict(ticket.masks)  # fmt: skip
    for one in watch.updates:
        ever = {name: mask | one["after"][name] for name, mask in ever.items()}
    total = sum(mask.numel() for mask in ever.values())
    explored = sum(int(mask.sum()) for mask in ever.values()) / total
    figures = ticket.history[-1].figures
    assert figures["explored"] == pytest.approx(explored)
    assert figures["density"] == ticket.masks.density
    for key, (old, new) in {"dropped": ("before", "after"), "grown": ("after", "before")}.items():
        counted = sum(
            int((one[old][name] & ~one[new][name]).sum())
            for one in watch.updates
            for name in one[old]
        )
        assert sum(record.figures[key] for record in ticket.history) == counted
    if not row.adaptive:
        number = sum(g.number for g in groups.values())
        alive = sum(int((g.reduce(ticket.masks[n].float()) > 0).sum()) for n, g in groups.items())
        layerwise = pattern == "2:4" or (row.cut or row.allocate) == "layer"
        if layerwise and pattern != "2:4":
            assert alive == sum(count_kept(density, g.number) for g in groups.values())
        elif pattern == "2:4":
            assert alive == number // 2
        else:
            assert alive == count_kept(density, number)
    for name, mask in ticket.masks.items():
        weight = ticket.model.get_parameter(name)
        assert type(weight) is nn.Parameter
        assert not weight[~mask].any()


@pytest.mark.parametrize(
    "objective",
    [
        Adversarial(ATTACK),
        Trades(ATTACK),
        Mart(ATTACK),
        Certified(THREAT, method="ibp", warmup=1),
        Certified(THREAT, method="crown-ibp", warmup=1),
        Awp(Adversarial(ATTACK)),
    ],
    ids=["adversarial", "trades", "mart", "ibp", "crown-ibp", "awp"],
)
@pytest.mark.parametrize("method", ["set", "rigl", "granet", "hard_thresholding"])
def test_any_objective(method: str, objective: Any) -> None:
    ticket = trained(method, objective=objective, average=0.5)
    assert 0.25 <= ticket.masks.density < 0.27
    assert all(math.isfinite(record.loss) for record in ticket.history)
    for name, mask in ticket.masks.items():
        assert not ticket.model.get_parameter(name)[~mask].any()


def test_in_an_average_what_grows_starts_at_zero() -> None:
    model = nn.Linear(4, 1, bias=False)
    apply_masks(model, MaskSet({"weight": torch.tensor([[True, True, False, False]])}))
    stored, mask = model.parametrizations.weight.original, model.parametrizations.weight[0].mask  # type: ignore[union-attr, index]
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        stored.copy_(torch.tensor([[1.0, 2.0, 0.0, 4.0]]))
        mask.copy_(torch.tensor([[True, False, True, False]]))
        before = average.state["parametrizations.weight.original"].clone()
        average.update(model)
    decay = 2 / 11
    found = average.state["parametrizations.weight.original"]
    expected = torch.lerp(before, stored.detach(), 1 - decay)
    expected[0, 2] = 0.0  # not the rest of its earlier life
    torch.testing.assert_close(found, expected)
    assert torch.equal(average.state["parametrizations.weight.0.mask"], mask)


def test_the_epoch_is_chosen_with_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Falls:
        """The second epoch is the best one."""

        def __init__(self) -> None:
            self.calls = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.calls += 1
            x, y = examples()[0]
            yield x, y if self.calls == 2 else 1 - y

    watch = Watch(monkeypatch)
    ticket = trained(
        "set", validation=Validation(loader=Falls()), epochs=6,  # type: ignore[arg-type]
    )  # fmt: skip
    assert ticket.masks == watch.updates[1]["after"] != watch.updates[-1]["after"]
    for name, mask in ticket.masks.items():
        assert not ticket.model.get_parameter(name)[~mask].any()


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", [*SPARSE_METHODS])
def test_a_killed_training_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    """It is killed within an epoch, and in another one again."""
    x, y = (torch.cat(part) for part in zip(*examples(), strict=True))
    options: dict[str, Any] = {"attack": ATTACK, "epochs": 5, "every": 2, "average": 0.9}
    if SPARSE_METHODS[method].fixed:
        del options["every"]
    if method == "flyingbird_plus":
        options["validation"] = Validation(loader=examples(2), attack=ATTACK)

    class Dies(Adversarial):
        left = 10**6

        def __call__(self, *args: Any) -> Any:
            Dies.left -= 1
            if Dies.left < 0:
                raise Stop
            return super().__call__(*args)

    del options["attack"]

    def run(left: int, **more: Any) -> Ticket:
        Dies.left = left
        loader = BatchLoader(Split(x, y), 8, shuffle=True, seed=0)
        return trained(method, objective=Dies(ATTACK), loader=loader, **options, **more)

    torch.manual_seed(1)
    straight = run(10**6)
    place = Checkpoint(tmp_path / "kept", seconds=0.0)
    torch.manual_seed(1)
    for steps in (7, 8):
        with pytest.raises(Stop):
            run(steps, checkpoint=place)
        torch.manual_seed(99)
    resumed = run(10**6, checkpoint=place)
    assert resumed.masks == straight.masks
    assert [r.figures for r in resumed.history] == [r.figures for r in straight.history]
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_a_seed_draws_the_first_mask_and_the_growth() -> None:
    one, same, other = (trained("set", seed=seed) for seed in (1, 1, 2**62))
    assert one.masks == same.masks != other.masks


def test_growth_by_gradient_finds_the_inputs_that_matter() -> None:
    """Two of 200 inputs say the class; of 2% of the weights, a random mask has hardly any there."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 200, generator=generator)
    data = list(zip(x.split(64), (x[:, :2].sum(1) > 0).long().split(64), strict=True))
    losses: dict[str, list[float]] = {"static": [], "rigl": []}
    for method, seed in itertools.product(losses, range(2)):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(200, 16), nn.ReLU(), nn.Linear(16, 2))
        ticket = trained(
            method, model, loader=data, density=0.02, dense=("last",), epochs=20, seed=seed
        )
        losses[method].append(ticket.history[-1].loss)
        share = float(ticket.masks["0.weight"][:, :2].float().mean())
        assert (share > 0.1) == (method == "rigl")
    assert 10 * max(losses["rigl"]) < min(losses["static"])


def test_the_work_of_a_training_by_hand() -> None:
    """A convolution uses its weights once a position; the last update adds a dense gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    data = [(x.view(8, 1, 8), y) for x, y in examples()]
    given = {"0.weight": 0.25, "3.weight": 0.5}
    ticket = trained(
        "rigl", model, loader=data, density=27 / 60, allocate=given, every=4, attack=ATTACK
    )
    share = (6 * 3 + 24) / (6 * 12 + 48)
    for record in ticket.history:
        assert record.figures["work"] == pytest.approx(share)
    dense = [record.figures["dense_steps"] for record in ticket.history]
    assert dense == [1, 1, 0, 0]  # the third and last update drops nothing
    expected = share + (1 - share) * 2 / 16 / 5  # 2 passes of PGD-1 and 3 of the update
    assert training_work(ticket.history, 1) == pytest.approx(expected)
    gradual = trained("gradual", model, loader=data, density=0.5, every=4)
    path = [1.0, *(0.5 + 0.5 * (1 - i / 3) ** 3 for i in range(1, 4))]
    for record, now in zip(gradual.history, path, strict=True):
        kept = (count_kept(now, 12) * 6 + count_kept(now, 48)) / 120
        assert record.figures["work"] == pytest.approx(kept)
    assert training_work([], 1) is None


class Told(nn.Linear):
    """A layer that is called by keyword, and returns its bias, too."""

    def forward(self, told: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(told), self.bias


class Calls(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = nn.Linear if how == "weights" else Told
        self.first, self.last, self.how = kind(8, 8), nn.Linear(8, 2), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "weights":
            hidden = nn.functional.linear(x, self.first.weight).relu()
            return nn.functional.linear(hidden, self.last.weight)
        hidden, _ = self.first(told=x) if self.how == "keyword" else self.first(x)
        return self.last(hidden.relu())


@pytest.mark.parametrize("how", ["keyword", "tuple", "weights"])
def test_networks_that_call_their_layers_otherwise_are_trained(how: str) -> None:
    given = {"first.weight": 0.5, "last.weight": 0.25}
    ticket = trained("static", Calls(how), density=0.45, allocate=given)
    assert ticket.masks.density == 0.45
    # only the last layer says how often it is used, or none
    assert training_work(ticket.history, 3) == (None if how == "weights" else 0.25)


def test_a_finished_training_that_is_read_again_leaves_no_hooks(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "kept.safetensors", seconds=0)
    one, again = (trained("rigl", checkpoint=kept) for _ in range(2))
    assert not any(module._forward_hooks for module in again.model.modules())
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rigl", "hard_thresholding"])
def test_a_compiled_network_moves_its_masks_alike(method: str) -> None:
    # several updates could meet a tie that rounding decides, and then go other ways
    own: dict[str, Any] = {"every": 5} if method == "rigl" else {}
    plain, fast = (trained(method, compile=compiled, **own) for compiled in (False, True))
    assert fast.masks == plain.masks
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(value, fast.model.state_dict()[name])
    assert training_work(fast.history, 0) is None


class NoLength:
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(examples())


class Short(list[Any]):
    """Says that it has more batches than it gives."""

    def __len__(self) -> int:
        return 8


@pytest.mark.parametrize("method", ["granet", "mest_ems"])
def test_a_loader_that_gives_less_than_it_says_still_leads_to_the_density(method: str) -> None:
    ticket = trained(method, loader=Short(examples()), density=0.25)
    assert ticket.masks.density == 0.25


CHECK = Validation(loader=examples())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("riggle", {}, "unknown method 'riggle'; choose one of gradual, static, set, rigl"),
        ("rigl", {"density": 0.0}, "density"),
        ("rigl", {"drop": 1.5}, "drop=1.5 must be a share from 0 to 1"),
        ("rigl", {"drop_end": float("nan")}, "drop_end=nan must be a share"),
        ("rigl", {"grow": "momentum"}, "unknown grow='momentum'; choose random or gradient"),
        ("rigl", {"start": 0.8}, "start=0.8 and stop=0.75"),
        ("rigl", {"every": 0}, "every=0 must be at least 1"),
        ("rigl", {"every": 2.5}, "every=2.5 must be at least 1, in whole steps"),
        ("rigl", {"every": 100}, "every=100 leaves no update between start=0 and stop=0.75"),
        ("rigl", {"first": 0.1}, "first=0.1 is the density at the start, and must be from 0.25"),
        ("rigl", {"ramp": 0.5}, "ramp=0.5 has no effect without first"),
        ("granet", {"ramp": 0.0}, r"ramp=0 must be a fraction of the training in \(0, 1\]"),
        ("granet", {"ramp": 0.01, "every": 4}, "ramp=0.01 ends before the first of 3 updates"),
        ("static", {"drop": 0.3}, "drop=0.3 is no option of method static; leave it out"),
        ("static", {"every": 3}, "every=3 is no option of method static"),
        ("hard_thresholding", {"grow": "random"}, "grow='random' is no option of method hard"),
        ("gradual", {"grow": "random"}, "grow='random' has no effect with drop=0"),
        ("hard_thresholding", {"seed": 1}, "seed=1 has no effect"),
        ("rigl", {"loader": NoLength()}, "the loader has no length"),
        ("granet", {"validation": CHECK}, "before the network is sparse"),
        ("mest_ems", {"validation": CHECK}, "before the network is sparse"),
        ("flyingbird_plus", {"validation": None}, "adapts the density to held-out examples; give"),
        ("rigl", {"pattern": "2:4"}, "keeps exactly 0.5"),
        ("rigl", {"pattern": "2:4", "density": 0.5, "allocate": "erk"}, "allocate='erk' has no"),
        ("rigl", {"attack": ATTACK, "objective": Natural()}, "either `attack` or `objective`"),
    ],
)
def test_what_cannot_be_is_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        trained(method, **options)
    assert "\n" not in str(caught.value)


def test_static_needs_no_length() -> None:
    assert trained("static", loader=NoLength()).masks.kept == count_kept(0.25, 96 + 96 + 16)
