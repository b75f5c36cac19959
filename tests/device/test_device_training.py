"""What training and searches promise holds on the accelerator; of use where there is one."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerator import DEVICE, INNER, LINF, SPEC, needs_one
from torch import nn

import attacks as a
from attacks import PGD, ThreatModel
from robustprune import deploy
from robustprune.measure import compare_cost
from robustprune.minmax import (
    Adversarial,
    Ard,
    Awp,
    Certified,
    Checkpoint,
    Free,
    FreeLB,
    Gaussian,
    Iad,
    Mart,
    Natural,
    Objective,
    OptimizerSpec,
    Repeated,
    Rslad,
    Trades,
    Validation,
    train,
)
from robustprune.minmax.finite import finite
from robustprune.models import EmbeddingClassifier
from robustprune.packing import pack_tokens, with_room, words
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

pytestmark = needs_one


def teacher() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(DEVICE)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "natural": Natural,
    "adversarial": lambda: Adversarial(INNER),
    "fast": lambda: Adversarial(a.FGSM(LINF, random_start=True)),
    "free": lambda: Free(LINF),
    "freelb": lambda: FreeLB(INNER),
    "trades": lambda: Trades(INNER),
    "mart": lambda: Mart(INNER),
    "gaussian": lambda: Gaussian(0.1),
    "ard": lambda: Ard(teacher(), INNER),
    "rslad": lambda: Rslad(teacher(), INNER),
    "iad": lambda: Iad(teacher(), INNER),
    "awp": lambda: Awp(Trades(INNER)),
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
        for name in ("snip", "grasp", "obd", "obd_ggn")
    },
    **{
        name: lambda *args, name=name: prune_one_shot(
            *args, density=0.3, criterion=name, device=DEVICE
        )
        for name in ("magnitude", "random")
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
