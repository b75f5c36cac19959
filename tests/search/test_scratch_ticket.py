"""The search for scratch tickets: what it must hold to, on any module."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Checkpoint, OptimizerSpec, Validation
from robustprune.search import INITS, Ticket, find_scratch_ticket, finetune_ticket, initialise
from robustprune.search.popup import Popup
from robustprune.sparsity import count_kept, group_weight, maskable_layers

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2)


class Small(nn.Module):
    """A convolution, a batch norm, a transposed convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.up = nn.ConvTranspose1d(16, 12, 2, stride=2)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.conv(x)).relu()
        logits: torch.Tensor = self.out(self.drop(self.up(hidden).relu().mean(2)))
        return logits


def model() -> Small:
    torch.manual_seed(0)
    return Small()


def loader(shuffle: bool = True, n: int = 24) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 10, generator=generator)
    y = torch.arange(n) % 3
    x += 3 * y[:, None, None].float()
    return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle)


def search(**options: object) -> Ticket:
    torch.manual_seed(0)
    settings: dict = {
        "density": 0.3,
        "attack": ATTACK,
        "epochs": 3,
        "optimizer": OptimizerSpec(lr=0.5),
        "quiet": True,
    } | options
    return find_scratch_ticket(settings.pop("model", model()), loader(), **settings)


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("pattern", ["element", "row", "kernel", "filter"])
def test_exactly_the_ceiling_is_kept_in_each_layer(density: float, pattern: str) -> None:
    ticket = search(density=density, pattern=pattern, epochs=1)
    for name, layer in maskable_layers(model()).items():
        groups = group_weight(layer, pattern)  # type: ignore[arg-type]
        expected = count_kept(density, groups.number) * layer.weight.numel() // groups.number
        assert int(ticket.masks[name].sum()) == expected


def test_global_allocation_keeps_the_ceiling_over_all_layers() -> None:
    masks = search(allocate="global").masks
    assert masks.kept == count_kept(0.3, masks.total)
    assert len({layer.density for layer in masks.layers()}) > 1


def test_the_random_weights_are_never_touched() -> None:
    """θ is what `initialise` draws for the seed; the result is m ⊙ θ, bit for bit."""
    before = model()
    untouched = copy.deepcopy(before.state_dict())
    ticket = search(model=before, seed=5)
    for name, value in before.state_dict().items():
        assert torch.equal(value, untouched[name])
    theta = model()
    initialise(maskable_layers(theta), generator=torch.Generator().manual_seed(5))
    for name, mask in ticket.masks.items():
        assert torch.equal(ticket.model.get_parameter(name), theta.get_parameter(name) * mask)
    for name in ("conv.bias", "up.bias", "out.bias", "norm.weight", "norm.bias"):
        assert torch.equal(ticket.model.get_parameter(name), theta.get_parameter(name))


def test_trained_tickets_keep_the_models_own_weights() -> None:
    own = model()
    ticket = search(model=own, init=None)
    for name, mask in ticket.masks.items():
        assert torch.equal(ticket.model.get_parameter(name), own.get_parameter(name) * mask)


def test_the_search_learns_and_moves_the_mask() -> None:
    start, end = search(epochs=1, optimizer=OptimizerSpec(lr=1e-9)), search(epochs=30)
    assert start.masks != end.masks
    assert end.history[-1].loss < 0.8 * start.history[0].loss


def test_same_seed_same_bits_other_seed_other_ticket() -> None:
    one, two, other = search(), search(), search(seed=1)
    assert one.masks == two.masks
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name])
    assert [r.loss for r in one.history] == [r.loss for r in two.history]
    assert one.masks != other.masks


def test_dense_layers_stay_whole_and_random() -> None:
    ticket = search(dense=("first", "out"))
    assert list(ticket.masks) == ["up.weight"]
    theta = model()
    initialise(maskable_layers(theta), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ticket.model.get_parameter("conv.weight"), theta.conv.weight)


def test_an_interrupted_search_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Stop after each epoch in turn; the ticket is the one of the uninterrupted search."""

    class Stop(Exception):
        pass

    straight = search(allocate="global", epochs=4)
    file = tmp_path / "state.safetensors"
    for stop_after in range(1, 4):
        file.unlink(missing_ok=True)

        def stop(record: object, last: int = stop_after) -> None:
            if record.epoch + 1 == last:  # type: ignore[attr-defined]
                raise Stop

        with pytest.raises(Stop):
            search(
                allocate="global", epochs=4, checkpoint=Checkpoint(file, seconds=0), on_epoch=stop
            )
        torch.manual_seed(99)  # a new process starts from anywhere
        resumed = find_scratch_ticket(
            model(),
            loader(),
            density=0.3,
            attack=ATTACK,
            epochs=4,
            optimizer=OptimizerSpec(lr=0.5),
            allocate="global",
            checkpoint=Checkpoint(file),
            quiet=True,
        )
        assert resumed.masks == straight.masks
        assert [r.loss for r in resumed.history] == [r.loss for r in straight.history]
        for name, value in straight.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name])


def test_validation_chooses_the_epoch() -> None:
    """The chosen epoch is the last of those with the best held-out robust accuracy."""
    held_out = loader(shuffle=False, n=9)
    ticket = search(
        epochs=8,
        optimizer=OptimizerSpec(lr=2.0),
        validation=Validation(loader=held_out, attack=PGD(ATTACK.threat, steps=2, seed=0)),
    )
    scores = [record.val_robust for record in ticket.history]
    best = max(s for s in scores if s is not None)
    check = Validation(loader=held_out, attack=PGD(ATTACK.threat, steps=2, seed=0))
    assert check(ticket.model, torch.device("cpu"))[1] == best


def test_masks_are_computed_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = Popup.forward
    monkeypatch.setattr(
        Popup, "forward", lambda self, weight: calls.append(1) or forward(self, weight)
    )
    search(epochs=1, attack=PGD(ATTACK.threat, steps=5))
    steps, layers, looks = 3, 3, 1
    # registering, checking the first batch and baking look at the weights too
    assert len(calls) <= steps * layers + looks * 4 * layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\]"),
        ({"density": 1.5}, r"density must be in \(0, 1\]"),
        ({"model": nn.Flatten()}, "nothing to mask"),
        ({"attack": None}, "either `attack` or `objective`"),
        ({"init": "zeros"}, "unknown init 'zeros'; choose one of signed_kaiming_constant"),
        ({"allocate": "most"}, "unknown allocation 'most'"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_labels_outside_the_classes_are_refused() -> None:
    data = TensorDataset(torch.randn(6, 1, 10), torch.arange(6))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2 .* got 0\.\.5"):
        find_scratch_ticket(
            model(), DataLoader(data, batch_size=6), density=0.5, attack=ATTACK, quiet=True
        )


def test_a_diverging_search_says_so() -> None:
    with pytest.raises(ValueError, match="non-finite in epoch"):
        search(optimizer=OptimizerSpec(lr=1e38, momentum=0.0, weight_decay=10.0), epochs=20)


def test_the_first_layer_as_random_thresholds() -> None:
    plain, drawn = search(), search(thresholds=(0.5, 2.0), density=1.0)
    shift = drawn.model.get_parameter("norm.bias")
    assert float(plain.model.get_parameter("norm.bias").detach().abs().max()) == 0.0
    assert bool(((shift <= -0.5) & (shift >= -2.0)).all())
    assert len(shift.unique()) == 16
    assert torch.equal(drawn.model.get_parameter("norm.weight"), torch.ones(16))
    first, *others = (
        p for n, p in drawn.model.named_parameters() if "norm" not in n and p.ndim > 1
    )
    assert bool((first > 0).all())
    assert all(bool((other < 0).any()) for other in others)
    with pytest.raises(ValueError, match=r"thresholds \(2, 1\) must be \(lo, hi\)"):
        search(thresholds=(2.0, 1.0))
    with pytest.raises(ValueError, match="need an affine batch norm over the 3 outputs"):
        search(thresholds=(0.5, 2.0), model=nn.Sequential(nn.Flatten(), nn.Linear(10, 3)))


@pytest.mark.parametrize("mode", ["inherit", "reinit", "full"])
def test_fine_tuning(mode: str) -> None:
    ticket = search()
    tuned = finetune_ticket(
        ticket,
        loader(),
        Adversarial(ATTACK),
        mode=mode,  # type: ignore[arg-type]
        epochs=10,
        optimizer=OptimizerSpec(lr=0.1),
        quiet=True,
    )
    assert tuned.history[-1].loss < tuned.history[0].loss
    for name, mask in ticket.masks.items():
        weight = tuned.model.get_parameter(name)
        if mode == "full":
            assert bool((weight[~mask] != 0).any())
            assert tuned.masks.density == 1.0
        else:
            assert bool((weight[~mask] == 0).all())
            assert tuned.masks == ticket.masks
        assert not torch.equal(weight, ticket.model.get_parameter(name))


@pytest.mark.parametrize("init", INITS)
def test_initialisations_have_their_variance(init: str) -> None:
    layer = nn.Conv2d(16, 40, 5)
    generator = torch.Generator().manual_seed(0)
    initialise({"w": layer}, init, generator=generator, density=0.25)  # type: ignore[arg-type]
    fan_in, fan_out = 400 * 0.25, 1000 * 0.25
    variance = 2 / fan_in if "kaiming" in init else 2 / (fan_in + fan_out)
    assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.05)
    assert float(layer.weight.detach().mean()) == pytest.approx(0.0, abs=0.05 * variance**0.5)
    if init.endswith("constant"):
        assert len(layer.weight.detach().abs().unique()) == 1
    assert layer.bias is not None
    assert float(layer.bias.detach().abs().max()) == 0.0


def test_fan_scaling_scales_the_layers_that_lose_weights() -> None:
    """|θ| = √(2 / (kept share · fan in)), and √(2 / fan in) where a layer stays whole."""
    ticket = search(fan_scaling=True, density=0.25, dense=("first",), epochs=1)
    for name, fan_in in {"conv.weight": 3, "up.weight": 32, "out.weight": 12}.items():
        weight = ticket.model.get_parameter(name).detach()
        share = 1.0 if name == "conv.weight" else 0.25
        size = weight[weight != 0].abs()
        assert torch.allclose(size, torch.full_like(size, (2 / (share * fan_in)) ** 0.5)), name


GIVEN = {"conv.weight": 1.0, "up.weight": 0.1, "out.weight": 0.5}


@pytest.mark.parametrize("allocate", ["erk", GIVEN])
def test_fan_scaling_follows_what_each_layer_keeps(allocate: object) -> None:
    ticket = search(fan_scaling=True, density=0.224, allocate=allocate, epochs=1)
    assert len({round(layer.density, 2) for layer in ticket.masks.layers()}) > 1
    for layer, fan_in in zip(ticket.masks.layers(), (3, 32, 12), strict=True):
        weight = ticket.model.get_parameter(layer.name).detach()
        share = allocate[layer.name] if isinstance(allocate, dict) else layer.density
        size = weight[weight != 0].abs()
        assert torch.allclose(size, torch.full_like(size, (2 / (share * fan_in)) ** 0.5))


@pytest.mark.parametrize(
    "option", [{"fan_scaling": True}, {"bias_scale": 0.5}, {"thresholds": (0.5, 2.0)}]
)
def test_how_weights_are_drawn_says_nothing_where_none_are(option: dict) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}=.* has no effect.*: init=None draws no weights"):
        search(init=None, **option)


@pytest.mark.parametrize("scale", [-0.5, float("nan"), float("inf")])
def test_a_scale_of_biases_is_a_length(scale: float) -> None:
    with pytest.raises(ValueError, match=r"bias_scale=.* must be at least 0 and finite"):
        search(bias_scale=scale)


def test_a_scale_of_biases_needs_a_bias() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(10, 3, bias=False))
    with pytest.raises(ValueError, match=r"bias_scale=0\.5 has no effect: no layer has a bias"):
        search(bias_scale=0.5, model=bare)
    search(model=bare, epochs=1)


@pytest.mark.parametrize(("name", "value"), [("init", "xavier_normal"), ("seed", 1)])
@pytest.mark.parametrize("mode", ["inherit", "full"])
def test_how_weights_are_drawn_is_of_mode_reinit(mode: str, name: str, value: object) -> None:
    ticket, options = search(epochs=1), {"epochs": 1, "optimizer": OptimizerSpec()}
    options |= {"mode": mode, name: value}
    with pytest.raises(ValueError, match=f"{name}=.* has no eff.*: mode '{mode}' draws no weights"):
        finetune_ticket(ticket, loader(), Adversarial(ATTACK), **options)  # type: ignore[arg-type]


def test_a_wrapped_network_gives_the_same_ticket() -> None:
    bare = search()
    for wrapped in (torch.compile(model(), backend="eager"), nn.DataParallel(model())):
        ticket = search(model=wrapped)
        assert ticket.masks == bare.masks
        for name, value in bare.model.state_dict().items():
            assert torch.equal(value, ticket.model.state_dict()[name])
