"""What the library promises holds on the accelerator, too; of use where there is one."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import attacks as a
from attacks import PGD, ThreatModel
from robustprune import bounds, certify, deploy, selection
from robustprune.measure import compare_cost, evaluate
from robustprune.minmax import (
    Adversarial,
    Certified,
    Checkpoint,
    Free,
    FreeLB,
    Gaussian,
    Mart,
    Natural,
    Objective,
    OptimizerSpec,
    Repeated,
    Trades,
    Validation,
    train,
)
from robustprune.minmax.finite import finite
from robustprune.models import EmbeddingClassifier
from robustprune.run.runtime import choose_device
from robustprune.search import (
    find_language_ticket,
    find_lottery_ticket,
    find_scratch_ticket,
    finetune_ticket,
    prune_admm,
    prune_one_shot,
    prune_scores,
    train_control,
)
from robustprune.sparsity import count_kept, maskable_layers
from robustprune.view import pack_tokens, with_room, words

DEVICE = choose_device()
pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no accelerator here")

LINF = ThreatModel("linf", 0.1, bounds=(0.0, 1.0))
L2 = ThreatModel("l2", 0.5, bounds=(0.0, 1.0))
L1 = ThreatModel("l1", 2.0, bounds=(0.0, 1.0))
INNER = PGD(LINF, steps=2, seed=0)
SPEC = OptimizerSpec(name="sgd", lr=0.05, weight_decay=5e-4)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 3
    x = (0.3 * torch.rand(96, 1, 8, 8, generator=generator) + 0.35 * y[:, None, None, None]).clamp(
        0, 1
    )
    return list(zip(x.split(24), y.split(24), strict=True))


@pytest.fixture
def trained(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> tuple[nn.Module, Tensor, Tensor]:
    train(network, batches, Adversarial(INNER), optimizer=SPEC, epochs=8, device=DEVICE, quiet=True)
    x, y = (torch.cat(part).to(DEVICE) for part in zip(*batches, strict=True))
    network.eval()
    right = network(x).argmax(1) == y
    assert right.float().mean() > 0.8
    return network, x[right][:16], y[right][:16]


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (a.FGSM(LINF), LINF),
        (PGD(LINF, steps=5, restarts=2, seed=0), LINF),
        (PGD(L2, steps=5, seed=0), L2),
        (PGD(L1, steps=5, seed=0), L1),
        (a.APGD(LINF, steps=5, seed=0), LINF),
        (a.APGD(L2, steps=5, loss="dlr", seed=0), L2),
        (a.APGD(L1, steps=5, seed=0), L1),
        (a.Square(LINF, queries=20, seed=0), LINF),
        (a.Square(L2, queries=20, seed=0), L2),
    ],
    ids=lambda value: type(value).__name__ + getattr(getattr(value, "threat", value), "norm", ""),
)
def test_attacks_stay_within_the_threat(trained, attack, threat) -> None:
    model, x, y = trained
    before = copy.deepcopy(model.state_dict())
    x_adv = attack(model, x, y)
    assert x_adv.device == x.device
    assert threat.distance(x, x_adv).max() <= threat.eps
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "attack",
    [
        a.DeepFool("l2", bounds=(0, 1)),
        a.CW(steps=50, searches=5, initial_c=1.0, bounds=(0, 1)),
        a.DDN(steps=20, bounds=(0, 1)),
        a.FMN("linf", steps=20, bounds=(0, 1)),
        a.FAB("linf", steps=10, bounds=(0, 1)),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_nearest_examples_are_adversarial_and_beyond_the_certificate(trained, attack) -> None:
    model, x, y = trained
    x_adv = attack(model, x, y)
    moved = (x_adv != x).flatten(1).any(1)
    assert moved.any()
    assert (model(x_adv[moved]).argmax(1) != y[moved]).all()
    radius = bounds.certified_radius(
        model, x, y, norm=getattr(attack, "norm", "l2"), bounds=(0.0, 1.0), eps_max=4.0
    )
    order = {"l2": 2, "linf": torch.inf}[getattr(attack, "norm", "l2")]
    distance = torch.linalg.vector_norm((x_adv - x).flatten(1).double(), ord=order, dim=1)
    certify.check_sandwich(radius[moved].cpu(), distance[moved].cpu())


def test_ensembles_and_minimal_perturbation(trained) -> None:
    model, x, y = trained
    found = a.minimal_perturbation(model, x, y, norm="linf", bounds=(0.0, 1.0))
    assert found.r.device.type == DEVICE.type
    names = {"pgd": INNER, "apgd": a.APGD(LINF, steps=5, seed=0)}
    outcome = evaluate(model, x, y, names, batch_size=8)
    ours = evaluate(copy.deepcopy(model).cpu(), x.cpu(), y.cpu(), {"pgd": INNER}, batch_size=8)
    assert torch.equal(outcome.clean, ours.clean)
    x_adv = a.AutoAttack(LINF, seed=0)(model, x, y)
    assert LINF.distance(x, x_adv).max() <= LINF.eps


@pytest.mark.parametrize("method", bounds.METHODS)
def test_bounds_agree_with_those_of_the_cpu(trained, method) -> None:
    model, x, y = trained
    small = ThreatModel("linf", 0.01, bounds=(0.0, 1.0))
    here = bounds.margin_bounds(model, x, y, small, method=method)
    there = bounds.margin_bounds(copy.deepcopy(model).cpu(), x.cpu(), y.cpu(), small, method=method)
    torch.testing.assert_close(here.cpu(), there, rtol=1e-6, atol=1e-6)


def test_smoothing_certifies_and_repeats(trained) -> None:
    model, x, _ = trained
    results = [
        certify.certify(model, x, sigma=0.1, n0=20, n=500, seed=1, batch_size=size)
        for size in (64, 64)
    ]
    assert (results[0].radius == results[1].radius).all()
    assert (results[0].radius > 0).any()


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "natural": Natural,
    "adversarial": lambda: Adversarial(INNER),
    "fast": lambda: Adversarial(a.FGSM(LINF, random_start=True)),
    "free": lambda: Free(LINF),
    "freelb": lambda: FreeLB(INNER),
    "trades": lambda: Trades(INNER),
    "mart": lambda: Mart(INNER),
    "gaussian": lambda: Gaussian(0.1),
    "ibp": lambda: Certified(LINF, warmup=1.0),
    "crown-ibp": lambda: Certified(LINF, method="crown-ibp", warmup=1.0),
}


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains(network, batches, name, amp) -> None:
    loader = Repeated(batches, 2) if name == "free" else batches
    start = network[0].weight.detach().clone()
    history = train(
        network, loader, OBJECTIVES[name](), optimizer=SPEC, epochs=3, device=DEVICE, amp=amp,
        channels_last=amp, average=0.9, validation=Validation(loader=batches, attack=INNER),
        quiet=True,
    )  # fmt: skip
    assert len(history) == 3
    for key, weight in network.named_parameters():
        assert weight.dtype == torch.float32
        assert weight.device.type == DEVICE.type
        assert bool(torch.isfinite(weight).all()), key
    assert not torch.equal(start, network[0].weight.cpu())


LOOP = {"epochs": 2, "optimizer": SPEC, "device": DEVICE, "quiet": True}
SEARCHES = {
    "rst": lambda *args: find_scratch_ticket(*args, density=0.3, attack=INNER, **LOOP),
    "rst-filters": lambda *args: find_scratch_ticket(
        *args, density=0.5, attack=INNER, pattern="filter", **LOOP
    ),
    "admm": lambda *args: prune_admm(*args, density=0.3, attack=INNER, every=1, **LOOP),
    "admm-2:4": lambda *args: prune_admm(
        *args, density=0.5, attack=INNER, every=1, pattern="2:4", dense=("first",), **LOOP
    ),
    "admm-l1": lambda *args: prune_admm(*args, l1=1e-3, attack=INNER, every=1, **LOOP),
    "hydra": lambda *args: prune_scores(*args, density=0.3, attack=INNER, **LOOP),
    "harp": lambda *args: prune_scores(*args, density=0.3, method="harp", attack=INNER, **LOOP),
    "lottery": lambda *args: find_lottery_ticket(
        *args, density=0.3, attack=INNER, rounds=2, rewind=2, **LOOP
    ),
    **{
        name: lambda *args, name=name: prune_one_shot(
            *args, density=0.3, criterion=name, attack=INNER, device=DEVICE
        )
        for name in ("magnitude", "random", "snip", "grasp", "obd", "obd_ggn")
    },
}


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_keeps_its_word(
    network, batches, name, amp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOOP, "amp", amp)
    start = copy.deepcopy(network.state_dict())
    ticket = SEARCHES[name](network, batches)
    assert all(torch.equal(start[key], value) for key, value in network.state_dict().items())
    layers = maskable_layers(ticket.model)
    for key, mask in ticket.masks.items():
        weight = layers[key].weight
        assert weight.device.type == DEVICE.type
        assert bool((weight[~mask.to(weight.device)] == 0).all()), key
    if name in ("rst", "hydra", "admm", "magnitude", "snip", "grasp", "obd"):
        for mask in ticket.masks.values():
            assert int(mask.sum()) == count_kept(0.3, mask.numel())
    for mode in ("inherit", "reinit", "full"):
        tuned = finetune_ticket(ticket, batches, Adversarial(INNER), mode=mode, **LOOP)
        left = maskable_layers(tuned.model)
        for key, mask in tuned.masks.items():
            weight = left[key].weight
            assert bool((weight[~mask.to(weight.device)] == 0).all()), (mode, key)
    if name == "lottery":
        for kind in ("random", "reinit"):
            train_control(ticket, batches, kind, attack=INNER, **LOOP)


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_a_resumed_training_goes_on_alike(network, batches, tmp_path: Path, amp) -> None:
    straight = copy.deepcopy(network)
    options = {"optimizer": SPEC, "device": DEVICE, "amp": amp, "quiet": True}
    torch.use_deterministic_algorithms(True)
    try:
        train(straight, batches, Adversarial(INNER), epochs=4, **options)
        half = Checkpoint(tmp_path / "state.safetensors", seconds=0)
        calls = []

        def stop(record) -> None:
            calls.append(record)
            if len(calls) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(
                copy.deepcopy(network), batches, Adversarial(INNER), epochs=4, checkpoint=half,
                on_epoch=stop, **options,
            )  # fmt: skip
        train(network, batches, Adversarial(INNER), epochs=4, checkpoint=half, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    for (key, one), two in zip(straight.named_parameters(), network.parameters(), strict=True):
        assert torch.equal(one, two), key


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 0.0])
def test_what_is_not_finite_is_seen(network, bad) -> None:
    parameters = list(network.to(DEVICE).parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[2].grad[0] = bad
    loss = torch.ones((), device=DEVICE)
    assert finite(loss, parameters) == (bad == 0.0)
    assert not finite(loss * torch.nan, [])


def test_slim_sparse_and_cost(network, batches, tmp_path: Path) -> None:
    ticket = find_scratch_ticket(
        network, batches, density=0.5, attack=INNER, pattern="filter", dense=("last",), **LOOP
    )
    x = batches[0][0].to(DEVICE)
    model = ticket.model.eval()
    slimmed = deploy.slim(model, ticket.masks, x)
    torch.testing.assert_close(slimmed(x), model(x), rtol=0, atol=1e-5)
    path = tmp_path / "slim"
    deploy.save_slim(path, slimmed)
    again = deploy.load_slim(path)
    torch.testing.assert_close(again.to(DEVICE)(x), model(x), rtol=0, atol=1e-5)
    costs = compare_cost({"masked": model, "slim": slimmed}, x, repeats=2)
    assert all(cost.device.startswith(DEVICE.type) for cost in costs)


@pytest.mark.parametrize(
    "method",
    [
        selection.Random(0),
        selection.HighestLoss(),
        selection.BoundaryDistance(LINF),
        selection.KnnShapley(k=2),
    ],
    ids=lambda method: type(method).__name__,
)
def test_selection(trained, method) -> None:
    model, x, y = trained
    pool = selection.Pool(INNER(model, x, y), y, x)
    chosen = selection.select_adversarial_examples(model, pool, (x, y), method=method, keep=0.5)
    assert len(chosen.chosen) == 8


@pytest.mark.parametrize("granularity", ["weight", "head", "neuron", "layer"])
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_language_tickets(granularity, amp) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12,
    )  # fmt: skip
    model = EmbeddingClassifier(transformers.BertForSequenceClassification(config))
    ids = torch.randint(5, 40, (32, 12))
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[:, 0] = True
    x = pack_tokens(ids, torch.zeros_like(ids), torch.ones_like(special), special)
    x, y = with_room(x, 16), (ids[:, 1] > 20).long()
    loader = list(zip(x.split(8), y.split(8), strict=True))
    attack = PGD(ThreatModel("l2", 0.2, support=words), steps=2)
    options = {"epochs": 1, "device": DEVICE, "amp": amp, "quiet": True}
    adam = OptimizerSpec(name="adamw", lr=1e-2)
    ticket = find_language_ticket(
        model, loader, density=0.5, attack=attack, granularity=granularity, spread=1.0,
        optimizer=adam, **options,
    )  # fmt: skip
    total = sum(scores.numel() for scores in ticket.scores.values())
    tuned = finetune_ticket(ticket, loader, FreeLB(attack), optimizer=adam, **options)
    assert next(tuned.model.parameters()).device.type == DEVICE.type
    assert ticket.at(1.0).masks.kept > ticket.masks.kept
    if granularity == "weight":
        assert ticket.masks.kept == count_kept(0.5, total)
