"""Lottery tickets: what is kept, where the weights go back to, and the controls."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Checkpoint, Natural, OptimizerSpec, train
from robustprune.minmax.resume import unflatten
from robustprune.search import LotteryTicket, find_lottery_ticket, train_control
from robustprune.search.controls import shuffled
from robustprune.sparsity import MaskSet, count_kept, keep_best, maskable_layers

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2)
SPEC = OptimizerSpec(lr=0.05, schedule="constant")
Batches = list[tuple[Tensor, Tensor]]
Make = Callable[[], nn.Module]


def find(model: nn.Module, batches: Batches, **options: object) -> LotteryTicket:
    settings: dict = {
        "density": 0.25,
        "allocate": "global",
        "attack": ATTACK,
        "epochs": 3,
        "rounds": 2,
        "optimizer": SPEC,
        "quiet": True,
    } | options
    torch.manual_seed(0)
    return find_lottery_ticket(model, batches, **settings)


def test_one_round_is_magnitude_pruning_of_a_trained_network(
    make_network: Make, batches: Batches
) -> None:
    ticket = find(make_network(), batches, rounds=1, objective=Natural(), attack=None)
    model = make_network()
    torch.manual_seed(0)
    train(model, batches, Natural(), optimizer=SPEC, epochs=3)
    layers = maskable_layers(model)
    scores = {n: layer.weight.detach().abs() for n, layer in layers.items()}
    assert ticket.masks == keep_best(scores, layers, density=0.25, allocate="global")


def test_the_weights_go_back_to_the_start(make_network: Make, batches: Batches) -> None:
    model = make_network()
    ticket = find(model, batches)
    for name, value in model.state_dict().items():
        assert torch.equal(value, ticket.start.state_dict()[name])


def test_or_to_a_later_step(make_network: Make, batches: Batches) -> None:
    model = make_network()
    torch.manual_seed(0)
    train(model, batches, Natural(), optimizer=SPEC, epochs=1)  # four batches, four steps
    ticket = find(make_network(), batches, rewind=4, objective=Natural(), attack=None)
    for name, value in model.state_dict().items():
        assert torch.equal(value, ticket.start.state_dict()[name])


def test_the_count_is_exact_and_nothing_comes_back(make_network: Make, batches: Batches) -> None:
    model = make_network()
    ticket = find(model, batches, rounds=3)
    total = sum(layer.weight.numel() for layer in maskable_layers(model).values())  # type: ignore[operator, union-attr]
    assert ticket.masks.kept == count_kept(0.25, total)
    halfway = find(model, batches, rounds=3, density=0.25)
    assert halfway.masks == ticket.masks
    for name, mask in ticket.masks.items():
        assert bool((ticket.model.get_parameter(name)[~mask] == 0).all())


def test_rounds_are_nested(make_network: Make, batches: Batches, tmp_path: Path) -> None:
    from robustprune.run.checkpoint import load_tensors
    from robustprune.search.lottery import _read_round

    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    ticket = find(make_network(), batches, rounds=3, checkpoint=place)
    files = sorted(tmp_path.glob("state-round-*-done.safetensors"))
    of_it = [Checkpoint(file, call=load_tensors(file)[1]["call"]) for file in files]
    masks = [_read_round(done, make_network(), batches) for done in of_it]
    assert [m.density for m in masks] == pytest.approx(
        [0.25 ** (1 / 3), 0.25 ** (2 / 3), 0.25], abs=2e-3
    )
    for smaller, larger in zip([*masks[1:], ticket.masks], masks, strict=True):
        for name, mask in smaller.items():
            assert not bool((mask & ~larger[name]).any())


@pytest.mark.parametrize("calls", [1, 4, 7])
def test_an_interrupted_search_goes_on_alike(
    make_network: Make, batches: Batches, tmp_path: Path, calls: int
) -> None:
    class Stop(Exception):
        pass

    seen = []

    def stop(record: object) -> None:
        seen.append(record)
        if len(seen) == calls:
            raise Stop

    def seeded(**options: object) -> LotteryTicket:
        return find(make_network(), batches, attack=PGD(ATTACK.threat, steps=2, seed=1), **options)

    straight = seeded()
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    with pytest.raises(Stop):
        seeded(checkpoint=place, on_epoch=stop)
    resumed = seeded(checkpoint=place)
    assert resumed.masks == straight.masks
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_shuffling_keeps_the_count_of_each_layer() -> None:
    masks = MaskSet({"a": torch.arange(20) < 7, "b": (torch.arange(6) < 2).view(2, 3)})
    mixed = shuffled(masks, torch.Generator().manual_seed(0))
    assert mixed.layers() == masks.layers()
    assert mixed != masks


@pytest.mark.parametrize("kind", ["random", "reinit"])
def test_controls_change_one_thing(make_network: Make, batches: Batches, kind: str) -> None:
    ticket = find(make_network(), batches)
    control = train_control(
        ticket,
        batches,
        kind,  # type: ignore[arg-type]
        attack=ATTACK,
        epochs=3,
        optimizer=SPEC,
        quiet=True,
    )
    assert (control.masks == ticket.masks) == (kind == "reinit")
    assert control.masks.layers() == ticket.masks.layers()
    for name, mask in control.masks.items():
        assert bool((control.model.get_parameter(name)[~mask] == 0).all())


def test_bad_arguments_are_refused(make_network: Make, batches: Batches) -> None:
    model = make_network()
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        find(model, batches, rounds=0)
    with pytest.raises(ValueError, match="rewind=-1 must be at least 0, in optimizer steps"):
        find(model, batches, rewind=-1)
    with pytest.raises(ValueError, match="unknown control 'none'; choose one of random, reinit"):
        train_control(
            find(model, batches, rounds=1, epochs=1),
            batches,
            "none",  # type: ignore[arg-type]
            attack=ATTACK,
            epochs=1,
        )


@pytest.mark.parametrize("allocate", ["erk", "layer", "global", {"0.weight": 0.9, "3.weight": 0.3}])
def test_rounds_are_nested_under_every_allocation(
    make_network: Make, batches: Batches, tmp_path: Path, allocate: object
) -> None:
    place = Checkpoint(tmp_path / "state.safetensors", seconds=0)
    options: dict = {"allocate": allocate, "dense": ("last",), "rounds": 4, "epochs": 1}
    density = 0.364 if isinstance(allocate, dict) else 0.2
    ticket = find(make_network(), batches, checkpoint=place, density=density, **options)
    files = sorted(tmp_path.glob("state-round-*-done.safetensors"))
    masks = [MaskSet(unflatten(load_file(file))["mask"]) for file in files]
    assert len(masks) == 4
    assert masks[-1] == ticket.masks
    for number, (smaller, larger) in enumerate(zip(masks[1:], masks, strict=False), 2):
        assert not any(bool((smaller[name] & ~larger[name]).any()) for name in larger)
        assert smaller.kept < larger.kept
        if allocate in ("erk", "global"):
            assert smaller.kept == count_kept(density ** (number / 4) if number < 4 else 0.2, 216)
    if isinstance(allocate, dict):
        assert [layer.kept for layer in ticket.masks.layers()] == [22, 58]


class Unread:
    """Batches of which none may be read."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> object:
        raise AssertionError("a batch was read before the options were checked")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewind": 13}, r"rewind=13 is beyond the first training, which has 12 optimizer steps"),
        ({"pattern": "2:4", "density": 0.5, "rounds": 3}, "rounds=3 has no effect with pattern"),
        ({"pattern": "2:4", "density": 0.5, "rounds": 1, "allocate": "erk"}, "has no effect"),
        ({"allocate": {"0.weight": 0.5}}, "no density is given for layer"),
        ({"allocate": "erdos"}, "unknown allocation 'erdos'"),
        ({"objective": Natural()}, "either `attack` or `objective`"),
        ({"dense": ("head",)}, "cannot keep 'head' dense"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(
    make_network: Make, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find(make_network(), Unread(4), **options)  # type: ignore[arg-type]


def test_a_rewind_that_is_not_reached_is_no_rewind_to_the_start(
    make_network: Make, batches: Batches
) -> None:
    """A loader without a length: whether the step exists is known after the first training."""

    class Endless:
        def __iter__(self) -> object:
            return iter(batches)

    at_the_end = find(make_network(), Endless(), rewind=12, rounds=1)  # type: ignore[arg-type]
    assert not torch.equal(at_the_end.start[0].weight, make_network()[0].weight)  # type: ignore
    with pytest.raises(ValueError, match=r"rewind=13 is beyond .* 12 optimizer steps"):
        find(make_network(), Endless(), rewind=13, rounds=1)  # type: ignore[arg-type]


def test_an_init_is_of_the_control_that_draws_weights(make_network: Make, batches: Batches) -> None:
    ticket = find(make_network(), batches, rounds=1, epochs=1)
    options: dict = {"objective": Natural(), "epochs": 1, "optimizer": SPEC, "quiet": True}
    with pytest.raises(ValueError, match="kind 'random' draws no weights"):
        train_control(ticket, Unread(4), "random", init="xavier_normal", **options)  # type: ignore[arg-type]
    one = train_control(ticket, batches, "reinit", init="kaiming_normal", **options)
    default = train_control(ticket, batches, "reinit", **options)
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, default.model.state_dict()[name])
