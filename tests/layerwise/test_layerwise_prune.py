"""Pruning whole networks layer by layer: what stays as it is, what comes out, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import pytest
import torch
from layerwise_networks import IMAGES, TEXTS, data_for, made
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from attacks import FGSM, ThreatModel, evaluating, logits_of
from robustprune.layerwise import (
    SOLVERS,
    TARGETS,
    FewExamples,
    LayerProblem,
    Owl,
    Solution,
    TargetName,
    prune_layerwise,
)
from robustprune.layerwise.calibrate import layer_of
from robustprune.layerwise.moments import Moments
from robustprune.sparsity import Folded, LeftOut, MaskSet

FEW = pytest.mark.filterwarnings("ignore::robustprune.layerwise.FewExamples")
NAMES = [*IMAGES, *TEXTS, "twice"]


def answer(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), evaluating(network):
        return logits_of(network, x)


def no_hooks(network: nn.Module) -> bool:
    return all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())


@FEW
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_density_one_changes_nothing_and_the_given_network_stays_as_it_is(
    name: str, target: TargetName
) -> None:
    network = made(name).train(target != "own")
    before = copy.deepcopy(network.state_dict())
    data = data_for(name)
    ticket = prune_layerwise(network, data, density=1.0, target=target, solver="refit")
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert no_hooks(network)
    assert no_hooks(ticket.model)
    assert network.training == ticket.model.training == (target != "own")
    if name in TEXTS:
        assert network.config.use_cache == ticket.model.config.use_cache
    torch.testing.assert_close(
        answer(ticket.model, data[0][0]), answer(network, data[0][0]), atol=1e-4, rtol=1e-4
    )
    assert ticket.masks.density == 1


@FEW
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["pre-activation", "gpt2"])
def test_two_runs_are_equal_and_keep_what_was_asked_for(name: str, target: TargetName) -> None:
    network, data = made(name), data_for(name)
    one, two = (prune_layerwise(network, data, density=0.3, target=target) for _ in range(2))
    for key, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[key])
    assert one.masks == two.masks
    assert len(one.history) == len(one.masks)
    for key, mask in one.masks.items():
        weight = layer_of(one.model, key).weight
        assert isinstance(weight, Tensor)
        assert torch.equal(weight != 0, mask)
        assert int(mask.sum()) == -(-mask.numel() * 3 // 10)
    if name == "pre-activation":  # as they run
        order = ["stem.weight", "first.weight", "second.weight", "head.weight"]
        assert list(one.masks) == order


@FEW
@pytest.mark.parametrize("name", ["resnet", "llama", "bert", "gpt2"])
def test_the_targets_repair_what_came_before(name: str) -> None:
    """On the calibration data the residual target ends nearer to the dense network than "own"."""
    network, data = made(name), data_for(name, batches=8)
    x = torch.cat([x for x, _ in data])
    away = {
        target: float(
            (answer(prune_layerwise(network, data, density=0.5, target=target).model, x)
             - answer(network, x)).norm()
        )
        for target in TARGETS
    }  # fmt: skip
    assert away["residual"] < away["own"]
    assert away["dense"] < away["own"]


@FEW
@pytest.mark.parametrize("wrap", ["compile", "parallel"])
def test_wrapped_networks(wrap: str) -> None:
    network, data = made("cnn"), data_for("cnn")
    around = nn.DataParallel(network) if wrap == "parallel" else torch.compile(network)
    plain = prune_layerwise(network, data, density=0.5)
    assert prune_layerwise(around, data, density=0.5).masks == plain.masks


@FEW
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    network = made("cnn").to(dtype)
    data = [(x.to(dtype), y) for x, y in data_for("cnn")]
    ticket = prune_layerwise(network, data, density=0.5, target="dense")
    weight = layer_of(ticket.model, "0.weight").weight
    assert isinstance(weight, Tensor)
    assert weight.dtype == dtype
    assert torch.equal(weight != 0, ticket.masks["0.weight"])


@FEW
@pytest.mark.parametrize("solver", ["magnitude", "admm", "refit"])
def test_inputs_that_are_always_zero(solver: str) -> None:
    network = made("twice")
    data = [(x * torch.tensor([1.0, 0, 1, 0, 1]), y) for x, y in data_for("twice")]
    ticket = prune_layerwise(network, data, density=0.6, solver=solver)
    assert bool(torch.isfinite(answer(ticket.model, data[0][0])).all())


@FEW
@pytest.mark.parametrize("layer", [7, 9])
def test_a_bias_that_goes_with_the_weights_is_better_on_the_same_mask(layer: int) -> None:
    network, data = made("cnn"), data_for("cnn", batches=4)
    weight = layer_of(network, f"{layer}.weight").weight
    assert isinstance(weight, Tensor)
    torch.manual_seed(0)
    masks = MaskSet({f"{layer}.weight": torch.rand(weight.shape) < 0.3})
    x = torch.cat([x for x, _ in data])
    errors = []
    for bias in (False, True):
        net = prune_layerwise(network, data, masks=masks, bias=bias, solver="refit", ridge=0).model
        away = answer(net[: layer + 1], x) - answer(network[: layer + 1], x)
        errors.append(float(away.square().sum()))
    assert errors[1] < errors[0]


@FEW
def test_padding_does_not_count() -> None:
    """Whatever stands where the mask is 0 behind the sentence, a causal network's rest is the
    same, and so is the ticket."""
    network, (ids, _) = made("llama"), data_for("llama")[0]
    mask = torch.ones_like(ids)
    mask[:, 5:] = 0
    other = ids.clone()
    other[:, 5:] = 1
    batches = [[{"input_ids": i, "attention_mask": mask, "labels": i}] for i in (ids, other)]
    one, two = (prune_layerwise(network, batch, density=0.5) for batch in batches)
    assert one.masks == two.masks
    counted = prune_layerwise(network, batches[1], density=0.5)
    whole = prune_layerwise(network, [{"input_ids": other}], density=0.5)
    assert counted.history[0].loss != whole.history[0].loss


@FEW
@pytest.mark.parametrize("allocate", ["row", "global", "erk", "owl", Owl(3.0, 0.2)])
@pytest.mark.parametrize("pattern", ["element", "filter", "kernel"])
def test_allocations_and_patterns(allocate: Any, pattern: str) -> None:
    if allocate == "row" and pattern == "filter":
        return
    ticket = prune_layerwise(
        made("cnn"), data_for("cnn"), density=0.5, allocate=allocate, pattern=pattern,
        dense=("last",) if pattern != "kernel" or allocate != "row" else ("7", "9"),
    )  # fmt: skip
    if pattern == "element" and allocate != "row":
        assert ticket.masks.kept == -(-ticket.masks.total // 2)
    for mask in ticket.masks.values():
        assert bool(mask.any())


@FEW
def test_two_of_four_along_the_inputs() -> None:
    ticket = prune_layerwise(made("llama"), data_for("llama"), density=0.5, pattern="2:4")
    for mask in ticket.masks.values():
        assert bool((mask.view(len(mask), -1, 4).sum(2) == 2).all())


@FEW
def test_one_module_at_a_time_is_lent_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[nn.Module] = []
    to = nn.Module.to

    def note(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        moved.append(module)
        return to(module, *args, **kwargs)

    network, data = made("llama"), data_for("llama")
    plain = prune_layerwise(network, data, density=0.5)
    monkeypatch.setattr(nn.Module, "to", note)
    lent = prune_layerwise(network, data, density=0.5, device="cpu", offload=True)
    assert lent.masks == plain.masks
    layers = [type(module).__name__ for module in moved]
    assert layers == ["LlamaDecoderLayer"] * 8  # two networks, two layers, there and back
    with pytest.raises(ValueError, match="needs the device"):
        prune_layerwise(network, data, density=0.5, offload=True)


@FEW
def test_tokens_of_packed_sentences_that_do_not_count() -> None:
    """Sentences of embeddings, the last number of which says whether it is padding."""

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.relu(self.inner(x[..., :4]))).mean(1)

    torch.manual_seed(0)
    network, x = Packed(), torch.rand(8, 5, 5)
    x[..., 4] = (torch.arange(5) < 3).float()
    other = torch.where(x[..., 4:] > 0, x, torch.randn(8, 5, 5))
    other[..., 4] = x[..., 4]
    y = torch.zeros(8).long()

    def moved(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return x * torch.tensor([1.1, 0.9, 1, 1, 1])

    one, two = (
        prune_layerwise(
            network, [(z, y)], density=0.5, attack=moved, tokens=lambda z: z[..., 4] > 0
        ).masks
        for z in (x, other)
    )
    assert one == two
    with pytest.raises(ValueError, match="boolean tensor"):
        prune_layerwise(network, [(x, y)], density=0.5, tokens=lambda z: z[..., 4])


@FEW
@pytest.mark.parametrize("name", ["llama", "resnet"])
def test_one_gram_matrix_is_in_memory_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: WeakSet[Moments] = WeakSet()
    others: list[int] = []
    make = Moments.__init__

    def note(moments: Moments, *args: Any, **kwargs: Any) -> None:
        others.append(len(alive))
        alive.add(moments)
        make(moments, *args, **kwargs)

    monkeypatch.setattr(Moments, "__init__", note)
    prune_layerwise(made(name), data_for(name), density=0.5)
    assert len(others) > 5
    assert not any(others)


@FEW
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inputs_that_never_change_go_into_the_bias(solver: str, dtype: torch.dtype) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 6)
            with torch.no_grad():
                self.inner.weight[:5] = 0

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.sigmoid(self.inner(x)))

    torch.manual_seed(0)
    network, x = Constant(), torch.rand(200, 8)
    ticket = prune_layerwise(
        network, [(x, torch.zeros(200).long())],
        density=0.5, solver=solver, dtype=dtype, dense=("inner",), bias=True,
    )  # fmt: skip
    if solver not in ("magnitude", "dsnot"):
        assert not bool(ticket.masks["outer.weight"][:, :5].any())
    mean = answer(network, x).mean(0)
    torch.testing.assert_close(answer(ticket.model, x).mean(0), mean, atol=1e-5, rtol=1e-5)


@FEW
def test_networks_that_keep_what_they_saw_or_compute_their_weights() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 6), weight_norm(nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = torch.relu(self.inner(x))
            return self.outer(self.seen)

    torch.manual_seed(0)
    network, data = Keeps(), data_for("twice")
    attack = FGSM(ThreatModel("linf", 0.1))
    with pytest.warns(Folded, match="weight_norm"):
        ticket = prune_layerwise(network, data, density=0.5, attack=attack, sweeps=2)
    assert set(ticket.masks) == {"inner.weight", "outer.weight"}
    assert ticket.masks.kept == 15 + 9


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        return self.inner(x)


class Second(nn.Module):
    """It reads what the module before it kept."""

    def __init__(self, first: First) -> None:
        super().__init__()
        self.first, self.inner = first, nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.relu(x) + self.first.kept)


def test_what_a_module_kept_is_that_of_the_same_batch() -> None:
    torch.manual_seed(0)
    first = First()
    network = nn.Sequential(first, Second(first))
    data = [(torch.randn(40, 5), torch.zeros(40).long()) for _ in range(3)]
    ticket = prune_layerwise(network, data, density=0.5, dense=["0.inner.weight"])
    x = torch.cat([x for x, _ in data])
    seen = torch.relu(first.inner(x)) + x
    alone = prune_layerwise(
        nn.Sequential(network[1].inner), [(seen.detach(), torch.zeros(120).long())], density=0.5
    )
    assert torch.equal(alone.masks["0.weight"], ticket.masks["1.inner.weight"])
    torch.testing.assert_close(ticket.model[1].inner.weight, alone.model[0].weight)


@FEW
def test_a_loader_may_fill_the_same_tensors_again() -> None:
    class Refills:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            x, y = torch.empty(2, 2, 10, 10), torch.empty(2).long()
            for part, label in data:
                yield x.copy_(part), y.copy_(label)

    network = made("cnn")
    data = [(x[:2], y[:2]) for x, y in data_for("cnn", batches=3)]
    one, two = (prune_layerwise(network, loader, density=0.5) for loader in (data, Refills()))
    for found, expected in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(found, expected)


@FEW
def test_so_many_batches_are_taken_and_sums_may_be_single() -> None:
    network, data = made("cnn"), data_for("cnn", batches=3)
    one, two = (prune_layerwise(network, part, density=0.5, batches=1) for part in (data, data[:1]))
    assert one.masks == two.masks
    single = prune_layerwise(network, data, density=0.5, batches=1, dtype=torch.float32)
    loss = [[record.loss for record in ticket.history] for ticket in (one, single)]
    assert loss[0] == pytest.approx(loss[1], rel=0.05, abs=1e-4)


@FEW
def test_the_layer_that_a_solver_refuses_is_named() -> None:
    with pytest.raises(ValueError, match=r"layer '4\.weight' can't be solved: tiles of 2x2 span"):
        prune_layerwise(
            made("cnn"), data_for("cnn"), density=0.5, pattern="2x2", solver="gomp", dense=("0",)
        )


def test_weights_that_are_not_finite_are_named() -> None:
    network = made("cnn")
    with torch.no_grad():
        layer_of(network, "4.weight").weight[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"weights of layer '4\.weight' are NaN"):
        prune_layerwise(network, data_for("cnn"), density=0.5)


def test_few_examples_are_said() -> None:
    with pytest.warns(FewExamples, match=r"rank 2 at most for \d+ inputs; give more examples"):
        prune_layerwise(
            made("cnn"), [(x[:2], y[:2]) for x, y in data_for("cnn", batches=1)], density=0.5
        )


@FEW
def test_sweeps_attack_the_network_that_the_one_before_gave() -> None:
    network, data = made("cnn"), data_for("cnn")
    attacked: list[nn.Module] = []

    def attack(model: Any, x: Tensor, y: Tensor) -> Tensor:
        attacked.append(copy.deepcopy(model))
        return x + 0.01

    ticket = prune_layerwise(network, data, density=0.5, attack=attack, sweeps=2, clean=0.0)
    assert len(attacked) == 4  # two batches each
    assert bool((layer_of(attacked[0], "0.weight").weight != 0).all())
    assert not bool((layer_of(attacked[2], "0.weight").weight != 0).all())
    assert len(ticket.history) == 2 * len(ticket.masks)


@FEW
@pytest.mark.parametrize(("clean", "moved"), [(0.0, 16), (0.5, 8), (0.7, 5), (1.0, 0)])
def test_the_share_of_examples_that_stays_clean(clean: float, moved: int) -> None:
    number = 0

    def attack(model: Any, x: Tensor, y: Tensor) -> Tensor:
        nonlocal number
        number += len(x)
        return x

    prune_layerwise(made("cnn"), data_for("cnn"), density=0.5, attack=attack, clean=clean)
    assert number == moved


def test_layers_with_a_forward_of_their_own_stay_whole() -> None:
    class Standardised(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True))

    network = nn.Sequential(Standardised(5, 40), nn.ReLU(), nn.Linear(40, 3))
    with pytest.warns(LeftOut, match=r"0\.weight answer otherwise than their weights say"):
        ticket = prune_layerwise(network, data_for("twice", batches=9), density=0.5)
    assert list(ticket.masks) == ["2.weight"]


def test_no_hook_is_left_when_a_solver_fails() -> None:
    network = made("cnn")

    def fails(problem: LayerProblem) -> Solution:
        raise RuntimeError("no solution")

    with pytest.raises(RuntimeError, match="no solution"):
        prune_layerwise(network, data_for("cnn"), density=0.5, solver=fails)
    assert no_hooks(network)


@FEW
def test_attacked_inputs_are_drawn_by_the_seed() -> None:
    network, data = made("cnn").eval(), data_for("cnn")
    attack = FGSM(ThreatModel("linf", 0.1), random_start=True)
    state = torch.get_rng_state()
    seeds = [
        prune_layerwise(network, data, density=0.5, attack=attack, seed=seed).history[0].loss
        for seed in (0, 0, 1)
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"density": 0.0}, "density must be in"),
        ({"density": 0.4, "pattern": "2:4"}, "keeps exactly 0.5"),
        ({"solver": "adm"}, "did you mean 'admm'"),
        ({"target": "desne"}, "did you mean 'dense'"),
        ({"after": "blocks"}, "did you mean 'block'"),
        ({"allocate": "owll"}, "did you mean 'owl'"),
        ({"allocate": "owl", "pattern": "2:4"}, "fixes what each layer keeps"),
        ({"solver": "dsnot", "pattern": "filter"}, "chooses single weights"),
        ({"rigde": 1.0}, "did you mean 'ridge'"),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, "give `masks`"),
        ({"clean": 0.5}, "has no effect without an attack"),
        ({"sweeps": 2}, "has no effect without an attack"),
        ({"batches": 0}, "at least 1"),
        ({"dtype": torch.float16}, "float64 or"),
    ],
)
def test_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        prune_layerwise(made("cnn"), data_for("cnn"), **{"density": 0.5, **options})


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        ([], "the loader has no batches"),
        ([torch.zeros(3)], "yields a Tensor"),
        ([(torch.zeros(2, 2, 10, 10, dtype=torch.uint8), torch.zeros(2).long())], "floating"),
        ([(torch.full((2, 2, 10, 10), torch.nan), torch.zeros(2).long())], "non-finite"),
        ([(torch.zeros(2, 5, 10, 10), torch.zeros(2).long())], "does not take"),
    ],
)
def test_loaders_that_are_refused(loader: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        prune_layerwise(made("cnn"), loader, density=0.5)


@FEW
def test_layers_that_cannot_be_pruned_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 4, 2)
            self.conv = nn.Conv2d(4, 3, 3)
            self.never = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.up(x)).mean((2, 3))

    with pytest.warns(LeftOut) as said:
        ticket = prune_layerwise(Odd(), data_for("cnn"), density=0.5)
    assert list(ticket.masks) == ["conv.weight"]
    texts = [str(one.message) for one in said]
    assert any("never.weight are not called" in text for text in texts)
    assert any("up.weight (32)" in text for text in texts)


def test_recurrent_weights_stay_whole_and_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.head = nn.Linear(3, 4), nn.LSTM(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(x).unsqueeze(0))[0][0])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Recurrent()
    said = (
        r"180 of 202 .* \(89%\) stay dense, .* covers lstm\.weight_hh_l0 \(100\), lstm\.weight_ih"
    )
    with pytest.warns(LeftOut, match=said):
        ticket = prune_layerwise(
            model, [(torch.randn(40, 3), torch.arange(40) % 2)], density=0.5, solver="wanda"
        )
    assert set(ticket.masks) == {"embed.weight", "head.weight"}
    assert ticket.coverage.density == 0.5
    assert ticket.coverage.whole_density == pytest.approx(1 - 11 / ticket.coverage.parameters)
