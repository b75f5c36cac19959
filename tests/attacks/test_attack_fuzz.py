"""Networks, options and inputs of every kind: the right kind of answer, or one line that says why.

Whatever comes back is finite, in the true ball and in the bounds, and the network and x are as they
were; whatever is refused is a ValueError of one line.
"""

import copy
import math
import warnings
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from every_attack import same_state, state_of
from hypothesis import given, settings
from torch import nn
from torch.nn.utils import parametrizations

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
    BandLimited,
    Bisection,
    DeepFool,
    Square,
    ThreatModel,
    check_attacks,
    minimal_perturbation,
    robust_accuracy,
    worst_of,
)

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SHAPES = ((3,), (2, 5), (1, 4, 4), (1, 1, 1))
CLASSES = 3


class Net(nn.Module):
    """A small network with the habits that are drawn for it."""

    def __init__(self, shape, *, in_place, output, odd, dropout, norm_weights):
        super().__init__()
        size = math.prod(shape)
        first = nn.Linear(size, 6)
        self.layers = nn.Sequential(
            nn.Flatten(), parametrizations.weight_norm(first) if norm_weights else first,
            nn.ReLU(inplace=in_place), nn.Dropout(0.5 if dropout else 0.0), nn.Linear(6, CLASSES),
        )  # fmt: skip
        self.in_place, self.output, self.odd = in_place, output, odd

    def forward(self, x):
        if self.in_place:
            x.mul_(2.0).sub_(1.0)
        z = self.layers(x if self.in_place else 2.0 * x - 1.0)
        if self.odd == "ruled-out":
            z = z.masked_fill(torch.arange(CLASSES) == 1, -torch.inf)
        elif self.odd == "all-but-one":
            z = z.masked_fill(torch.arange(CLASSES) > 0, -torch.inf)
        elif self.odd == "nan-gradient":
            z = z + (z - z.detach()).abs().sqrt() * 0
        elif self.odd == "nan":
            z = z * torch.nan
        elif self.odd == "infinite":
            z = z + torch.inf
        elif self.odd == "flat":
            z = z.detach() + 0 * z
        elif self.odd == "no-graph":
            z = z.detach()
        elif self.odd == "loud":
            z = z * 1e4
        elif self.odd == "softmax":
            z = (z * 100).softmax(1)
        return {
            "tensor": z, "tuple": (z, x), "dict": {"loss": z, "logits": z},
            "object": SimpleNamespace(logits=z), "none": None, "narrow": z[:, :1],
        }[self.output]  # fmt: skip


HARMLESS = ("plain", "ruled-out", "all-but-one", "flat", "loud", "softmax")
HARMFUL = ("nan-gradient", "nan", "infinite", "no-graph")
OUTPUTS = ("tensor", "tuple", "dict", "object")


def nets(spoiled):
    harm = st.sampled_from(
        [("odd", one) for one in HARMFUL] + [("output", "none"), ("output", "narrow")]
    )
    net = st.fixed_dictionaries(
        {
            "in_place": st.booleans(),
            "output": st.sampled_from(OUTPUTS),
            "odd": st.sampled_from(HARMLESS),
            "dropout": st.booleans(),
            "norm_weights": st.booleans(),
        }
    )
    return (
        st.tuples(net, harm).map(lambda two: {**two[0], two[1][0]: two[1][1]}) if spoiled else net
    )


def mostly(*good, bad):
    """What is in range, and what is not."""
    return good, bad


BAD_NUMBERS = (-1, math.nan, math.inf, "1", None, 1j)
WHOLE = mostly(1, 2, 3, bad=(0, -1, 1.5, "2", math.nan))
SEED = mostly(None, 0, 7, bad=(0.5, "1"))
MODE = mostly("eval", "train", "keep", bad=("x", None))
STEP = mostly(None, 0.01, 1.0, 1e6, bad=(0.0, -0.1, math.nan, "1"))
LOSS = mostly("ce", "dlr", "margin", bad=("hinge", 3))
NUMBER = mostly(1e-3, 0.5, 2.0, bad=BAD_NUMBERS)
FRACTION = mostly(0.05, 0.5, 0.9, bad=(0.0, 1.0, -0.5, math.nan, "1"))
FLAG = mostly(True, False, bad=("no", None))

#: attack -> its options; the first letter says whether it stays in a ball
BALL = {
    FGSM: {"random_start": FLAG, "step_size": STEP, "loss": LOSS, "seed": SEED, "mode": MODE},
    PGD: {"steps": WHOLE, "step_size": STEP, "relative_step": NUMBER, "restarts": WHOLE,
          "random_start": FLAG, "momentum": mostly(0, 0.5, bad=BAD_NUMBERS), "loss": LOSS,
          "early_stop": FLAG, "seed": SEED, "mode": MODE},
    APGD: {"steps": WHOLE, "restarts": WHOLE, "targets": WHOLE, "rho": FRACTION, "seed": SEED,
           "loss": mostly("ce", "dlr", "targeted", bad=("x",)), "mode": MODE},
    Square: {"queries": WHOLE, "share": FRACTION, "restarts": WHOLE, "seed": SEED, "mode": MODE},
    AutoAttack: {"steps": WHOLE, "queries": WHOLE, "targets": mostly(None, 1, bad=(0,)),
                 "batch_size": mostly(None, 2, bad=(0, "3")), "seed": SEED, "mode": MODE},
}  # fmt: skip
FREE = {
    DDN: {"steps": mostly(2, 4, bad=(1, "3")), "gamma": FRACTION, "seed": SEED, "mode": MODE,
          "init_norm": mostly(None, 0.1, bad=(0, -1, math.nan))},
    FMN: {"norm": mostly("linf", "l2", "l1", bad=("l3", None)), "steps": mostly(2, 4, bad=(0,)),
          "alpha": mostly(None, 0.1, bad=(0, -1)), "gamma": FRACTION, "mode": MODE},
    FAB: {"norm": mostly("linf", "l2", "l1", bad=(2,)), "steps": WHOLE, "beta": FRACTION,
          "targets": mostly(None, 1, 2, bad=(0,)), "eta": mostly(1.0, 1.05, bad=(0.5, math.nan)),
          "alpha_max": mostly(0.0, 0.1, bad=(2, -1)), "seed": SEED, "mode": MODE},
    DeepFool: {"norm": mostly("linf", "l2", "l1", bad=("x",)), "steps": WHOLE, "classes": WHOLE,
               "overshoot": mostly(0, 0.02, bad=(-1, math.nan)),
               "halvings": mostly(0, 2, bad=(-1, 0.5)), "mode": MODE},
    CW: {"steps": WHOLE, "searches": WHOLE, "initial_c": NUMBER, "learning_rate": NUMBER,
         "confidence": mostly(0, 0.1, bad=BAD_NUMBERS), "mode": MODE},
    AdvDrop: {"max_step": NUMBER, "min_step": mostly(None, 1e-4, bad=(0, -1, math.nan)),
              "steps": WHOLE, "block": mostly(None, 2, bad=(0, "8")), "mode": MODE},
}  # fmt: skip


#: what may be wrong with a call: at most one thing, so that the other draws are looked at, too
SPOILED = [None] * 6 + ["net", "options", "threat", "bounds", "input", "labels"]


def drawn(data, table, *, spoiled):
    """An attack class and some of its options, of which one is out of range if ``spoiled``."""
    cls = data.draw(st.sampled_from(list(table)))
    names = st.lists(st.sampled_from(list(table[cls])), unique=True, max_size=3, min_size=spoiled)
    fixed = {"steps": 2, "queries": 2, "searches": 1, "max_step": 0.5, "seed": 0}
    options = {name: value for name, value in fixed.items() if name in table[cls]}
    for k, name in enumerate(data.draw(names)):
        good, bad = table[cls][name]
        values = bad if spoiled and k == 0 else good
        options[name] = data.draw(st.sampled_from(values), label=name)
    return cls, options


def the_threat(data, shape, spoiled):
    norm = data.draw(st.sampled_from(["linf", "l2", "l1"]))
    eps = [0.0, 0.1, 8 / 255, 0.5, 3.0, torch.tensor(0.1), np.float32(0.2), torch.full((4,), 0.2)]
    if spoiled == "threat":
        eps = [-1.0, math.nan, "1", None, torch.full((3,), 0.2), torch.zeros(2, 2)]
    eps = data.draw(st.sampled_from(eps))
    if norm != "l1" and data.draw(st.integers(0, 4)) == 0:
        return BandLimited(norm, eps, low=0, high=data.draw(st.integers(0, shape[-1] // 2)))
    bounds = [None, (0.0, 1.0), (0, 1), (np.zeros(()), 1.0), (-1e9, 1e9)]
    bounds.append((np.zeros(shape[0]), torch.ones(shape[0])))
    if spoiled == "bounds":
        bounds = [
            (1.0, 0.0),
            (0.999, 2.0),
            "ab",
            (0.0,),
            (0.0, math.nan),
            (np.zeros(9), np.ones(9)),
        ]
    return ThreatModel(norm, eps, data.draw(st.sampled_from(bounds)))


def inputs(data, shape, dtype, spoiled):
    """Four examples in [0, 1], of a kind that people pass."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x, y = torch.rand(4, *shape, generator=generator).to(dtype), torch.arange(4) % CLASSES
    kinds = ["plain", "grad", "strided", "expanded", "inference"]
    kind = data.draw(st.sampled_from(["nan", "array", "ids"] if spoiled == "input" else kinds))
    if kind == "grad":
        x = x.requires_grad_()
    elif kind == "strided":
        x = torch.stack((x, x), -1)[..., 0]
    elif kind == "expanded":
        x = x[:1].expand(4, *shape)
    elif kind == "inference":
        with torch.inference_mode():
            x, y = x.clone(), y.clone()
    elif kind == "nan":
        x = x * torch.nan
    elif kind == "array":
        x = x.float().numpy()
    elif kind == "ids":
        x = x.long()
    labels = [y + 3, y - 1, y.float(), y[:2], None] if spoiled == "labels" else [y, y.int()]
    return x, data.draw(st.sampled_from(labels))


def length(x, x_adv, norm):
    delta = (x_adv.detach().double() - x.detach().double()).flatten(1)
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    return torch.linalg.vector_norm(delta, ord=order, dim=1)


def run(data):
    """One draw: True where an attack came through, False where it was refused in one line."""
    shape, dtype = data.draw(st.sampled_from(SHAPES)), data.draw(st.sampled_from(DTYPES))
    spoiled = data.draw(st.sampled_from(SPOILED))
    options = data.draw(nets(spoiled == "net"))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    model = Net(shape, **options).to(dtype)
    if data.draw(st.booleans()):
        model.layers[1].register_forward_hook(lambda module, given, made: made * 1.0)
        model.register_forward_pre_hook(lambda module, given: (given[0] + 0.0,))
    model.train(data.draw(st.booleans()))
    x, y = inputs(data, shape, dtype, spoiled)
    before = state_of(model)
    x_before = copy.deepcopy(x.detach()) if isinstance(x, torch.Tensor) else x.copy()
    ball = spoiled in {"threat", "bounds"} or data.draw(st.booleans())
    cls, choice = drawn(data, BALL if ball else FREE, spoiled=spoiled == "options")
    wrap = data.draw(st.sampled_from(["alone"] * 4 + ["worst", "bisection", "minimal"]))
    try:
        if ball:
            threat = the_threat(data, shape, spoiled)
            attack = cls(threat, **choice)
            if wrap == "bisection":
                attack = Bisection(attack, rounds=1, halvings=1)
        else:
            threat, attack = None, cls(**choice)
        if wrap == "worst":
            attack = worst_of([attack])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # findings of AutoAttack, which are drawn here
            if wrap == "minimal":
                x_adv = minimal_perturbation(model, x, y, attacks=[attack], halvings=1).x_adv
            else:
                x_adv = attack(model, x, y)
    except ValueError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert len(text) < 500
        came = False
    else:
        came = True
        assert options["odd"] not in {"nan", "infinite"}
        assert options["output"] not in {"none", "narrow"}
        assert x_adv.shape == x.shape
        assert x_adv.dtype == dtype
        assert not x_adv.requires_grad
        assert bool(x_adv.isfinite().all())
        if threat is not None:
            eps = torch.as_tensor(threat.eps, dtype=torch.float64)
            assert bool((length(x, x_adv, threat.norm) <= eps).all())
            if isinstance(threat.bounds, tuple):
                lo, hi = (torch.as_tensor(bound, dtype=dtype).reshape(-1, *[1] * (len(shape) - 1))
                          for bound in threat.bounds)  # fmt: skip
                kept = (x_adv >= torch.minimum(lo, x)) & (x_adv <= torch.maximum(hi, x))
                assert bool(kept.all())
        if options["odd"] in HARMLESS:
            assert 0 <= robust_accuracy(model, x_adv, y) <= 1
    assert same_state(before, state_of(model))
    if isinstance(x, torch.Tensor):
        assert torch.equal(x.detach().nan_to_num(7.0), x_before.nan_to_num(7.0))
    else:
        assert np.array_equal(x, x_before)
    return came


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_right_answer_or_one_line(data):
    run(data)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(data=st.data())
def test_right_answer_or_one_line_at_length(data):
    run(data)


def test_the_draws_are_no_empty_shell():
    """Of the draws a good part comes through: else nothing but refusals would be tested."""
    came = []

    @settings(max_examples=150, deadline=None, database=None, derandomize=True)
    @given(data=st.data())
    def look(data):
        came.append(run(data))

    look()
    assert len(came) / 3 < sum(came) < len(came)


@settings(max_examples=40, deadline=None)
@given(options=st.booleans().flatmap(nets), seed=st.integers(0, 99))
def test_a_check_of_any_network_is_findings_or_one_line(options, seed):
    torch.manual_seed(seed)
    model = Net((3,), **options)
    x, y = torch.rand(4, 3), torch.arange(4) % CLASSES
    before = state_of(model)
    threat = ThreatModel("linf", 0.1)
    if options["output"] in {"none", "narrow"} or options["odd"] in {"nan", "infinite"}:
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            check_attacks(model, x, y, threat, steps=2, queries=2)
    else:
        found = check_attacks(model, x, y, threat, steps=2, queries=2)
        said = {finding.name: finding for finding in found}
        assert said["nan-gradients"].passed == (options["odd"] != "nan-gradient")
        if options["odd"] in {"flat", "no-graph"}:
            assert said["zero-gradients"].figure == 1
    assert same_state(before, state_of(model))
