"""Networks as people write them: recorded, saved, slimmed and sparsified they answer as they did,
or they are refused in one line; nothing else happens, and nothing of the caller's changes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

from attacks import logits_of, unwrapped
from attacks.modes import evaluating
from robustprune.deploy import load_slim, record, save_slim, silence, slim, sparsify
from robustprune.measure.cost import used_weights
from robustprune.sparsity import MaskSet
from robustprune.sparsity.apply import Masked

WIDTH = 5


class Foreign(nn.Module):
    """Layers of one width, with what people do between them, and what they return."""

    def __init__(self, blocks: list[str], returns: str) -> None:
        super().__init__()
        self.blocks, self.returns = blocks, returns
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in blocks)
        self.norm = nn.BatchNorm1d(WIDTH)
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.linspace(-0.5, 0.5, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Any:
        for block, layer in zip(self.blocks, self.layers, strict=True):
            x = BLOCKS[block](self, x, layer)
        logits = self.head(x)
        return {
            "tensor": logits,
            "tuple": (logits, x),
            "dict": {"features": x, "logits": logits},
            "number": 3,
        }[self.returns]


def residual_in_place(m: Foreign, x: Tensor, layer: nn.Module) -> Tensor:
    h = layer(x)
    h += x
    return h


def read_after(m: Foreign, x: Tensor, layer: nn.Module) -> Tensor:
    h = layer(x)
    return F.relu(h, inplace=True) + h


BLOCKS: dict[str, Callable[[Any, Tensor, nn.Module], Tensor]] = {
    "plain": lambda m, x, layer: F.relu(layer(x)),
    "in place": lambda m, x, layer: layer(x).relu_(),
    "input in place": lambda m, x, layer: layer(F.relu(x, inplace=True)),
    "shifted in place": lambda m, x, layer: layer(x.sub_(m.mean)),
    "residual": lambda m, x, layer: x + torch.tanh(layer(x)),
    "residual in place": residual_in_place,
    "read after": read_after,
    "alpha": lambda m, x, layer: torch.sub(layer(x), x, alpha=0.3),
    "rounded": lambda m, x, layer: torch.div(layer(x), 0.1, rounding_mode="floor"),
    "norm": lambda m, x, layer: m.norm(layer(x)),
    "twice": lambda m, x, layer: layer(F.leaky_relu(layer(x), 0.2, True)),
    "view": lambda m, x, layer: layer(x).view(x.size(0), -1),
    "joined": lambda m, x, layer: m.layers[0](torch.cat([x[:0], layer(x)], axis=0)),
    "double": lambda m, x, layer: layer(x) * m.mean.double().sum(),
    "branch": lambda m, x, layer: layer(x) if x.sum() > 0 else x,
    "softmax": lambda m, x, layer: layer(x).softmax(1),
}


def weigh(layer: nn.Linear, how: str) -> None:
    """Let something compute the weight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the older ones are old
        if how == "weight norm":
            parametrizations.weight_norm(layer)
        elif how == "spectral norm":
            parametrizations.spectral_norm(layer)
        elif how == "mask":
            mask = (torch.rand_like(layer.weight) < 0.5).to(layer.weight.dtype)
            parametrize.register_parametrization(layer, "weight", Masked(mask))
        elif how == "hooked weight norm":
            hooked_weight_norm(layer)
        elif how == "hooked spectral norm":
            hooked_spectral_norm(layer)
        elif how == "torch prune":
            prune.ln_structured(layer, "weight", 0.5, n=2, dim=0)
        elif how == "torch prune twice":
            prune.l1_unstructured(layer, "weight", 0.3)
            prune.random_unstructured(layer, "weight", 0.3)


WEIGHTS = (
    "plain",
    "weight norm",
    "spectral norm",
    "mask",
    "hooked weight norm",
    "hooked spectral norm",
    "torch prune",
    "torch prune twice",
)
HOOKS = ("none", "none", "none", "none", "root before", "root after", "layer", "instance")
SHARED = ("none", "none", "tied weight", "tied bias", "same layer")
WRAPPERS = ("none", "none", "DataParallel", "compile")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Drawn:
    blocks: list[str]
    weights: str
    hook: str
    shared: str
    wrapper: str
    returns: str
    dtype: torch.dtype
    dead: bool
    called_before: bool

    def build(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        model = Foreign(self.blocks, self.returns).to(self.dtype)
        first, last = model.layers[0], model.layers[-1]
        if self.dead:
            with torch.no_grad():
                first.weight[:2], first.bias[0] = 0, 0  # type: ignore[index, operator]
        if self.shared == "tied weight":
            last.weight = first.weight
        elif self.shared == "tied bias":
            last.bias = first.bias
        elif self.shared == "same layer":
            model.layers[-1] = first
        weigh(model.layers[0], self.weights)  # type: ignore[arg-type]
        if self.hook == "root before":
            model.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        elif self.hook == "root after":
            model.register_forward_hook(lambda module, args, out: out)
        elif self.hook == "layer":
            model.layers[0].register_forward_hook(lambda module, args, out: out + 1)
        elif self.hook == "instance":
            model.head.forward = lambda x: x[:, :3]  # type: ignore[method-assign]
        x = torch.randn(6, WIDTH).to(self.dtype)
        if self.called_before:
            with torch.no_grad():
                model(x.clone())
        if self.wrapper == "DataParallel":
            return nn.DataParallel(model), x
        return (torch.compile(model, backend="eager") if self.wrapper == "compile" else model), x


DRAWN = st.builds(
    Drawn,
    blocks=st.lists(st.sampled_from(list(BLOCKS)), min_size=1, max_size=3),
    weights=st.sampled_from(WEIGHTS),
    hook=st.sampled_from(HOOKS),
    shared=st.sampled_from(SHARED),
    wrapper=st.sampled_from(WRAPPERS),
    returns=st.sampled_from(["tensor", "tensor", "tuple", "dict", "number"]),
    dtype=st.sampled_from(DTYPES),
    dead=st.booleans(),
    called_before=st.booleans(),
)


def answers_or_refuses(drawn: Drawn, folder: Path) -> bool | None:
    """Try everything on one network; returns whether it was taken, None if it is no network."""
    try:
        model, x = drawn.build()
        example = x.clone()
        with evaluating(model), torch.no_grad():
            expected = logits_of(unwrapped(model), x)
    except (RuntimeError, ValueError, NotImplementedError):  # no network, or none with logits
        return None
    if not bool(expected.isfinite().all()):
        return None
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    size = sum(weight.numel() for weight in used_weights(model))
    taken = True
    try:
        network = record(model)
        save_slim(folder / "network.safetensors", model)
        loaded = load_slim(folder / "network.safetensors")
        with torch.no_grad():
            for same in (network, loaded):
                torch.testing.assert_close(same(x), expected, rtol=0, atol=0)
        assert parameters(loaded) == parameters(network) <= size
        small = slim(model, None, x)
        assert parameters(small) <= parameters(network)
        sparse = sparsify(small, None, x, repeats=1, gain=0.0)
        rounding = 64 * torch.finfo(drawn.dtype).eps
        if "rounded" not in drawn.blocks:  # where rounding moves a whole step
            with torch.no_grad():
                for near in (small, sparse):
                    torch.testing.assert_close(near(x), expected, rtol=rounding, atol=rounding)
    except ValueError as error:
        if "\n" in str(error) or len(str(error)) > 400:
            raise AssertionError("a refusal is one line") from error
        taken = False
    assert torch.equal(x, example)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    if "rounded" not in drawn.blocks:  # what torch.compile made may round otherwise
        rounding = 64 * torch.finfo(drawn.dtype).eps
        with evaluating(model), torch.no_grad():
            torch.testing.assert_close(logits_of(model, x), expected, rtol=rounding, atol=rounding)
    return taken


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


_FUZZ = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much)


@settings(max_examples=40, suppress_health_check=_FUZZ)
@given(DRAWN)
def test_it_answers_as_it_did_or_is_refused(tmp_path: Path, drawn: Drawn) -> None:
    assume(answers_or_refuses(drawn, tmp_path) is not None)


@pytest.mark.slow
@settings(max_examples=1500, suppress_health_check=_FUZZ)
@given(DRAWN)
def test_many_answer_as_they_did_or_are_refused(tmp_path: Path, drawn: Drawn) -> None:
    assume(answers_or_refuses(drawn, tmp_path) is not None)


def drawn(**given: Any) -> Drawn:
    plain: dict[str, Any] = {
        "blocks": ["plain", "plain"],
        "weights": "plain",
        "hook": "none",
        "shared": "none",
        "wrapper": "none",
        "returns": "tensor",
        "dtype": torch.float32,
        "dead": True,
        "called_before": False,
    }
    return Drawn(**{**plain, **given})


@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_whatever_computes_a_weight_is_taken(
    weights: str, called_before: bool, tmp_path: Path
) -> None:
    dead = "weight norm" not in weights  # which divides by the norm of a row
    case = drawn(weights=weights, called_before=called_before, dead=dead)
    assert answers_or_refuses(case, tmp_path)


@pytest.mark.parametrize(
    "given_",
    [
        *({"dtype": dtype} for dtype in DTYPES),
        *({"wrapper": wrapper} for wrapper in WRAPPERS[2:]),
        *({"shared": shared} for shared in SHARED[2:]),
        *({"returns": returns} for returns in ("tuple", "dict")),
        *(
            {"blocks": [block, "plain"]}
            for block in ("in place", "input in place", "shifted in place", "alpha", "rounded")
        ),
    ],
    ids=str,
)
def test_kinds_that_are_taken(given_: dict[str, Any], tmp_path: Path) -> None:
    assert answers_or_refuses(drawn(**given_), tmp_path)


@pytest.mark.parametrize("hook", HOOKS[4:])
def test_what_runs_beside_forward_is_refused(hook: str, tmp_path: Path) -> None:
    model, x = drawn(hook=hook).build()
    for refused in (
        lambda: record(model),
        lambda: save_slim(tmp_path / "network.safetensors", model),
        lambda: slim(model, None, x),
    ):
        with pytest.raises(ValueError, match="runs beside its class's forward"):
            refused()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, x: torch.export.export(m, (x,)).module(), "was made by torch.export, and its"),
        (lambda m, x: torch.export.export(m, (x,)), "is a ExportedProgram; pass the nn.Module"),
        (lambda m, x: nn.Sequential(torch.jit.trace(m, x)), "module '0' was made by TorchScript"),
    ],
    ids=["exported", "program", "script"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_modules_without_readable_layers_are_refused(make: Any, message: str) -> None:
    x = torch.randn(4, 3)
    model = make(nn.Sequential(nn.Linear(3, 2)).eval(), x)
    for refused in (lambda: slim(model, None, x), lambda: sparsify(model, None, x)):
        with pytest.raises(ValueError, match=message):
            refused()


def test_layers_whose_attributes_lie_are_refused() -> None:
    narrow = nn.Linear(6, 4)
    narrow.weight = nn.Parameter(narrow.weight[:2].detach())
    circular = nn.Conv1d(1, 1, 3, padding=2, padding_mode="circular")
    circular.padding = (1,)
    for layer, message in (
        (narrow, r"a weight of shape \(2, 6\), but its attributes say \(4, 6\)"),
        (circular, "has _reversed_padding_repeated_twice="),
    ):
        with pytest.raises(ValueError, match=message):
            record(nn.Sequential(layer))


def test_batch_norm_that_was_told_not_to_track_keeps_its_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm, x = nn.BatchNorm1d(4).eval(), torch.randn(5, 4)
    nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    norm.track_running_stats = False
    save_slim(tmp_path / "network.safetensors", nn.Sequential(norm))
    assert torch.equal(load_slim(tmp_path / "network.safetensors")(x), norm(x))


def test_masks_have_the_names_of_the_wrapped_network() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[:3] = False
    x = torch.randn(5, 4)
    for model, prefix in ((nn.DataParallel(inner), "module."), (inner, "")):
        masks = silence(model, MaskSet({f"{prefix}0.weight": mask}), x)
        assert set(masks) == {f"{prefix}0.weight", f"{prefix}0.bias"}
        assert slim(model, masks, x).get_parameter("0.weight").shape == (3, 4)
