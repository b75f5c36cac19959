"""Build a network by its name, for the shapes of a task and with checked options."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import nn

from robustprune.models.images import MLP, LeNet
from robustprune.models.inception import InceptionNet
from robustprune.models.language import language_model
from robustprune.models.normalize import Normalize
from robustprune.models.options import checked_options
from robustprune.models.residual import preact_resnet18, wide_resnet
from robustprune.models.timeseries import FCN, ResNet, TinyCNN
from robustprune.run.size import check_size
from robustprune.run.suggest import did_you_mean


class Inputs(Protocol):
    """This is what a network must know about its task. Every `Task` fits this protocol."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...] | None: ...
    @property
    def std(self) -> tuple[float, ...] | None: ...


@dataclass(frozen=True)
class ModelInputs:
    """These are the `Inputs` of a network that has no task, such as `ModelInputs((1, 96), 2)`.

    Attributes:
        input_shape: the shape of one example without the batch dimension: (C, H, W), (C, L) or
            (F,).
        num_classes: the number of classes, which is the number of logits.
        mean, std: one number for each channel, for a `Normalize` layer, or None for no such layer.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _Entry:
    """`build` is called with the number of channels, or with the whole shape where `whole_shape`.
    `shape` and `dims` describe one example. `stored` says that files and not options decide how
    large the network is."""

    build: Callable[..., nn.Module]
    shape: str
    dims: int | None
    whole_shape: bool = False
    stored: bool = False


_MODELS = {
    "fcn": _Entry(FCN, "(channels, length)", 2),
    "inception": _Entry(InceptionNet, "(channels, length)", 2),
    "language": _Entry(language_model, "(tokens, 3)", 2, whole_shape=True, stored=True),
    "lenet": _Entry(LeNet, "(channels, height, width)", 3, whole_shape=True),
    "mlp": _Entry(MLP, "any", None, whole_shape=True),
    "preact_resnet18": _Entry(preact_resnet18, "(channels, height, width)", 3),
    "resnet1d": _Entry(ResNet, "(channels, length)", 2),
    "tiny_cnn": _Entry(TinyCNN, "(channels, length)", 2),
    "wide_resnet": _Entry(wide_resnet, "(channels, height, width)", 3),
}


def model_names() -> list[str]:
    """Return the names that `build_model` knows, sorted."""
    return sorted(_MODELS)


def model_summaries() -> dict[str, str]:
    """Return one line for each name that says what the network is."""
    return {name: _first_line(_MODELS[name].build) for name in model_names()}


def _first_line(build: Callable[..., nn.Module]) -> str:
    return (build.__doc__ or "").strip().partition("\n")[0]


def build_model(
    name: str, inputs: Inputs, *, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a freshly initialised network for `inputs`, which is a `Task` or a `ModelInputs`.

    Where `inputs` has a mean and a standard deviation, the result is a Sequential of `normalize`
    and `network`, otherwise it is the network alone. Either way it takes x in input units and
    returns logits (N, num_classes). Weights are drawn from torch's global generator, so call
    `torch.manual_seed` first.

    Args:
        name: one of `model_names()`.
        inputs: an object with the shape of an example, the number of classes and the statistics.
        options: keyword options of the network, such as {"width": 8}, with lists for tuples; None
            for the defaults.

    Raises:
        ValueError: the name or an option is unknown (the message names the nearest valid one), an
            option has a wrong type or value, the network does not take examples of this shape, or
            the weights would take more memory than `run.files.memory_limit`.
    """
    if name not in _MODELS:
        raise ValueError(
            f"unknown model '{name}'{did_you_mean(name, _MODELS)}; "
            f"use one of {', '.join(model_names())}"
        )
    entry, shape = _MODELS[name], tuple(inputs.input_shape)
    if entry.dims is not None and len(shape) != entry.dims:
        raise ValueError(
            f"model '{name}' takes examples of shape {entry.shape}, but the task's have {shape}; "
            "choose another model or reshape the data"
        )
    checked = checked_options(entry.build, options or {}, model=name)
    build = partial(
        entry.build, shape if entry.whole_shape else shape[0], inputs.num_classes, **checked
    )
    if not entry.stored:
        check_size(build, model=name)
    network = build()
    if inputs.mean is None or inputs.std is None:
        return network
    normalize = Normalize(inputs.mean, inputs.std, dims=len(shape) - 1)
    return nn.Sequential(OrderedDict(normalize=normalize, network=network))
