"""Options out of range, of the wrong type, and in the order of other libraries."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from attacks import (
    APGD,
    CW,
    DDN,
    FAB,
    FGSM,
    FMN,
    PGD,
    AdvDrop,
    AutoAttack,
    Bisection,
    DeepFool,
    Square,
    ThreatModel,
    Transfer,
    check_attacks,
    minimal_perturbation,
    worst_of,
)
from attacks.returned import attacked, threat_of

THREAT = ThreatModel("linf", 0.1)

# what is in range at both ends, and what is just not
WHOLE = ([1, 7, np.int64(3)], [0, -1, 2.0, "3", True, math.nan, None])
WHOLE_FROM_0 = ([0, 3], [-1, 0.5, None])
WHOLE_FROM_2 = ([2, 100], [1, 0])
MAYBE_WHOLE = ([None, 1], [0, -2, 1.5])
ABOVE_0 = ([1e-9, 5, np.float32(0.5)], [0, -0.1, math.nan, math.inf, "1", True, 1j, None])
MAYBE_ABOVE_0 = ([None, 1e-9], [0, -0.1, math.nan, "1"])
AT_LEAST_0 = ([0, 0.9, 3], [-1e-9, math.nan, math.inf, "1", None])
MAYBE_AT_LEAST_0 = ([None, 0], [-1e-9, math.nan])
OPEN = ([0.01, 0.99], [0, 1, -0.5, 7.0, math.nan, None])
SEED = ([None, 0, -3, 2**40, np.int64(5)], [0.5, "0", True, 2**70])
MODE = (["eval", "train", "keep"], ["test", None, 1, ["eval"]])
FLAG = ([True, False], [1, "no", None])
LOSS = (["ce", "dlr", "margin"], ["hinge", None, 3, ["ce"]])
NORM = (["linf", "l2", "l1"], ["l3", None, 2, torch.inf, ["l2"]])
BOUNDS = ([None, (0.0, 1.0)], [(1.0, 0.0), 3.0, (0.0, math.nan), ("a", "b"), (0.0, 1.0, 2.0)])

OPTIONS = [
    (
        lambda **o: FGSM(THREAT, **o),
        {"step_size": MAYBE_ABOVE_0, "random_start": FLAG, "loss": LOSS},
    ),
    (
        lambda **o: PGD(THREAT, **o),
        {
            "steps": WHOLE,
            "restarts": WHOLE,
            "step_size": MAYBE_ABOVE_0,
            "relative_step": ABOVE_0,
            "momentum": AT_LEAST_0,
            "loss": LOSS,
            "early_stop": FLAG,
            "random_start": FLAG,
            "seed": SEED,
            "mode": MODE,
        },
    ),
    (
        lambda **o: APGD(THREAT, **o),
        {
            "steps": WHOLE,
            "restarts": WHOLE,
            "targets": WHOLE,
            "rho": OPEN,
            "loss": LOSS,
            "seed": SEED,
            "mode": MODE,
        },
    ),
    (
        lambda **o: Square(THREAT, **o),
        {
            "queries": WHOLE,
            "restarts": WHOLE,
            "seed": SEED,
            "mode": MODE,
            "share": ([0.1, 1], [0, -1, 1.01, math.nan, "1"]),
        },
    ),
    (
        lambda **o: AutoAttack(THREAT, **o),
        {
            "steps": WHOLE,
            "queries": WHOLE,
            "targets": MAYBE_WHOLE,
            "batch_size": MAYBE_WHOLE,
            "seed": SEED,
            "mode": MODE,
        },
    ),
    (
        CW,
        {
            "steps": WHOLE,
            "searches": WHOLE,
            "initial_c": ABOVE_0,
            "learning_rate": ABOVE_0,
            "confidence": AT_LEAST_0,
            "bounds": BOUNDS,
            "mode": MODE,
        },
    ),
    (
        DDN,
        {
            "steps": WHOLE_FROM_2,
            "gamma": OPEN,
            "init_norm": MAYBE_ABOVE_0,
            "bounds": BOUNDS,
            "seed": SEED,
            "mode": MODE,
        },
    ),
    (
        FMN,
        {
            "norm": NORM,
            "steps": WHOLE_FROM_2,
            "gamma": OPEN,
            "alpha": MAYBE_ABOVE_0,
            "bounds": BOUNDS,
            "mode": MODE,
        },
    ),
    (
        FAB,
        {
            "norm": NORM,
            "steps": WHOLE,
            "restarts": ([1], [0, "2"]),
            "targets": MAYBE_WHOLE,
            "eps": MAYBE_AT_LEAST_0,
            "alpha_max": ([0, 1], [-0.1, 1.1, math.nan]),
            "eta": ([1, 1.5], [0.9]),
            "beta": OPEN,
            "bounds": BOUNDS,
            "seed": SEED,
            "mode": MODE,
        },
    ),
    (
        DeepFool,
        {
            "norm": NORM,
            "steps": WHOLE,
            "classes": WHOLE,
            "overshoot": AT_LEAST_0,
            "halvings": WHOLE_FROM_0,
            "bounds": BOUNDS,
            "mode": MODE,
        },
    ),
    (
        lambda **o: AdvDrop(**{"max_step": 1.0, **o}),
        {
            "max_step": ([0.1, 2], [0, -1.0, math.nan, "1", None]),
            "min_step": ([None, 0.5], [0, 2.0, -1.0]),
            "steps": WHOLE,
            "block": MAYBE_WHOLE,
            "bounds": BOUNDS,
            "mode": MODE,
        },
    ),
    (
        lambda **o: Bisection(**{"attack": PGD(THREAT), **o}),
        {
            "rounds": WHOLE,
            "halvings": WHOLE_FROM_0,
            "mode": MODE,
            "attack": ([FGSM(THREAT), Square(THREAT)], [None, DDN(), THREAT]),
        },
    ),
    (lambda **o: worst_of([FGSM(THREAT)], **o), {"mode": MODE}),
    (
        lambda **o: ThreatModel(**{"norm": "l2", "eps": 1.0, **o}),
        {
            "norm": NORM,
            "bounds": BOUNDS,
            "eps": ([0, 1, 0.5], [-1.0, math.nan, math.inf, "1"]),
            "support": ([None, torch.isfinite], [3, torch.ones(2)]),
        },
    ),
]
CASES = [
    pytest.param(make, name, good, bad, id=f"{k}-{name}")
    for k, (make, options) in enumerate(OPTIONS)
    for name, (good, bad) in options.items()
]


@pytest.mark.parametrize(("make", "name", "good", "bad"), CASES)
def test_every_option_has_a_range(make, name, good, bad):
    for value in good:
        make(**{name: value})
    for value in bad:
        with pytest.raises(ValueError, match=name) as caught:
            make(**{name: value})
        assert "\n" not in str(caught.value)


def test_no_number_of_an_attack_is_left_out_of_the_table():
    """An option that is added later has to be given its range here, too."""
    made = [make() for make, _ in OPTIONS]
    for attack, (_, options) in zip(made, OPTIONS, strict=True):
        names = {field.name for field in dataclasses.fields(attack)}
        names -= {"threat", "support", "attacks"}
        if isinstance(attack, FGSM):
            names -= {"seed", "mode"}  # asked below
        assert names - options.keys() <= {"bounds"}, type(attack)
    for option in ({"seed": 0.5}, {"mode": "test"}):
        with pytest.raises(ValueError, match=next(iter(option))):
            FGSM(THREAT, **option)


@pytest.mark.parametrize("cls", [FGSM, PGD, APGD, Square, AutoAttack])
def test_the_habit_of_other_libraries_is_answered(cls):
    model = nn.Linear(3, 2)
    said = rf"{cls.__name__}\(ThreatModel\('linf', eps=8 / 255\)\)\(model, x, y\)"
    for call in (
        lambda: cls(model, eps=8 / 255),
        lambda: cls(model, 8 / 255),
        lambda: cls(model=model, threat=THREAT),
        lambda: cls(eps=8 / 255, steps=10),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    for wrong in ("linf", 0.1, None):
        with pytest.raises(ValueError, match=r"threat=.* must be a ThreatModel"):
            cls(wrong)


@pytest.mark.parametrize("cls", [CW, DDN, FMN, FAB, DeepFool])
def test_the_habit_is_answered_where_there_is_no_ball(cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__}\(steps=100\)\(model, x, y\)"):
        cls(nn.Linear(3, 2), steps=3)
    copied = dataclasses.replace(cls(), steps=7)
    assert copied.steps == 7


def test_batches_of_other_libraries_are_named():
    model, attack = nn.Linear(3, 2), PGD(THREAT, steps=2)
    x, y = torch.rand(2, 3), torch.zeros(2).long()
    with pytest.raises(ValueError, match=r"x is a ndarray; .* torch.from_numpy\(x\)"):
        attack(model, x.numpy(), y)
    with pytest.raises(ValueError, match=r"y is a ndarray; .* torch.from_numpy\(y\)"):
        attack(model, x, y.numpy())
    with pytest.raises(ValueError, match="y is a list"):
        attack(model, x, [0, 0])
    with pytest.raises(ValueError, match="for token ids their embeddings"):
        attack(model, torch.ones(2, 3).long(), y)


def test_options_of_the_functions():
    model, x = nn.Linear(3, 2), torch.rand(2, 3)
    y = model(x).argmax(1)
    for option in ({"lead": -1.0}, {"halvings": 0.5}, {"mode": "x"}, {"norm": "l9"}):
        with pytest.raises(ValueError, match=next(iter(option))):
            minimal_perturbation(model, x, y, **option)
    for option in ({"steps": 0}, {"queries": -1}, {"seed": 0.1}):
        with pytest.raises(ValueError, match=next(iter(option))):
            check_attacks(model, x, y, THREAT, **option)
    with pytest.raises(ValueError, match="is no attack"):
        worst_of([FGSM(THREAT), 3])


class Seen(nn.Module):
    """Records the mode in which it is called."""

    def __init__(self):
        super().__init__()
        self.layer, self.modes = nn.Linear(3, 2), set()

    def forward(self, x):
        self.modes.add(self.training)
        return self.layer(x)


@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
def test_mode_means_the_same_everywhere(mode):
    model = Seen().train()
    x = torch.rand(4, 3)
    y = model(x).argmax(1)
    inner = PGD(THREAT, steps=2, seed=0, mode=mode)
    for attack in (
        inner,
        AutoAttack(THREAT, steps=2, queries=2, mode=mode),
        worst_of([inner], mode=mode),
        Bisection(inner, rounds=1, mode=mode),
        lambda *batch: minimal_perturbation(*batch, mode=mode),
    ):
        model.modes.clear()
        attack(model, x, y)
        assert model.modes == {mode != "eval"}, attack
        assert model.training


def test_what_an_attack_returns_is_checked_and_kept_in_its_ball():
    model, x = nn.Linear(3, 2), torch.rand(4, 3)
    y = model(x).argmax(1)

    @dataclasses.dataclass(frozen=True)
    class Far:
        threat: ThreatModel | None
        step: float = 5.0

        def __call__(self, model, x, y):
            return x + self.step

    near = ThreatModel("linf", 0.25)
    assert torch.allclose(attacked(Far(near), model, x, y), x + 0.25)
    assert torch.equal(attacked(Far(None), model, x, y), x + 5)
    assert torch.allclose(attacked(Far(None), model, x, y, threat=near), x + 0.25)
    assert torch.allclose(worst_of([Transfer(Far(near), model)])(model, x, y), x, atol=0.2501)
    assert threat_of(worst_of([Far(near), FGSM(near)])) is near
    assert threat_of(worst_of([Far(near), FGSM(THREAT)])) is None
    assert threat_of(Transfer(Far(near), model)) is near
    assert threat_of(Bisection(FGSM(near))) is near
    for wrong, said in (
        (lambda m, x, y: x * math.nan, "NaN or infinity for 4 of 4"),
        (lambda m, x, y: x / 0, "NaN or infinity for 4 of 4"),
        (lambda m, x, y: x[:2], r"returned \(2, 3\) for inputs of shape \(4, 3\)"),
        (lambda m, x, y: None, "returned NoneType"),
    ):
        for run in (
            lambda wrong=wrong: worst_of([wrong])(model, x, y),
            lambda wrong=wrong: Transfer(wrong, model)(model, x, y),
            lambda wrong=wrong: minimal_perturbation(model, x, y, attacks=[wrong]),
        ):
            with pytest.raises(ValueError, match=said):
                run()


def test_a_given_attack_cannot_leave_bounds_or_support():
    model, x = nn.Linear(3, 2), torch.rand(6, 3)
    y = model(x).argmax(1)

    def far(model, x, y):
        towards = (model.weight[1 - y] - model.weight[y]).sign().detach()
        return x + 100 * towards

    def two_first(x):
        return (torch.arange(3) < 2).expand_as(x)

    found = minimal_perturbation(
        model, x, y, bounds=(0.0, 1.0), support=two_first, attacks=[far], norm="l2"
    )
    assert found.x_adv.min().item() >= 0
    assert found.x_adv.max().item() <= 1
    assert torch.equal(found.x_adv[:, 2], x[:, 2])


def test_one_radius_an_example_belongs_to_its_example_everywhere():
    """Half of the examples are wrong at first and drop out: the others keep their own radii."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.rand(8, 3)
    y = model(x).argmax(1)
    y[::2] = 1 - y[::2]
    eps = torch.tensor([5.0, 0.0] * 4)  # those that are right may not move at all
    threat = ThreatModel("linf", eps)
    attack = PGD(threat, steps=2)
    for one in (
        worst_of([attack]),
        worst_of([Transfer(attack, model)]),
        Bisection(attack, rounds=1),
    ):
        assert torch.equal(one(model, x, y), x), one
    assert not bool(minimal_perturbation(model, x, y, attacks=[attack]).r[1::2].isfinite().any())
    short = PGD(ThreatModel("linf", eps[:4]), steps=2)
    for one in (worst_of([short]), lambda *b: minimal_perturbation(*b, attacks=[short])):
        for labels in (y, 1 - model(x).argmax(1)):  # also where there is nothing to attack
            with pytest.raises(ValueError, match="eps holds 4 values for 8 examples"):
                one(model, x, labels)
