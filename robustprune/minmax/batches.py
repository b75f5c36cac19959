"""Turn what a loader yields into (x, y) and check it. Only this module takes batches apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.minmax.result import IGNORED
from robustprune.run.runtime import generator_states, restore_generators
from robustprune.sparsity.plain import copy_of

#: a loader: any object that yields its (x, y) batches again at each iteration; see `pair_of`
Batches = Iterable[Sequence[Tensor] | Mapping[str, Tensor]]

_INPUTS = ("x", "pixel_values", "input_values", "inputs", "input", "images", "image", "features")
_LABELS = ("y", "labels", "label", "targets", "target")
_LONELY = "Expected more than 1 value per channel when training"


def pair_of(batch: object) -> tuple[Tensor, Tensor]:
    """Return (x, y) of a batch.

    These are the first two entries of a tuple or list, whatever follows them (an index, a weight),
    or the inputs and labels of a dict under one of their usual names. Tensors that were made under
    `torch.inference_mode` are copied, so that training can use them.

    Raises:
        ValueError: there are no two such tensors.
    """
    found: Sequence[object]
    if isinstance(batch, Mapping):
        found = _of_mapping(batch)
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        found = batch[:2]
    else:
        held = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise ValueError(
            f"the loader yields a {type(batch).__name__}{held}; let each batch be (x, y), or a "
            "dict with 'x' and 'y'"
        )
    x, y = found
    for name, part in (("x", x), ("y", y)):
        if not isinstance(part, Tensor):
            raise ValueError(
                f"{name} of a batch is a {type(part).__name__}; let the loader yield tensors, as "
                "in TensorDataset(torch.as_tensor(x), torch.as_tensor(y))"
            )
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    return _usable(x), _usable(y)


def _of_mapping(batch: Mapping[str, Any]) -> tuple[object, object]:
    keys = ", ".join(map(repr, list(batch)[:8])) or "none"
    if "input_ids" in batch:
        raise ValueError(
            f"the loader yields token ids (keys {keys}), which an attack cannot move; pack the "
            "sentences as float tensors with robustprune.packing.pack_tokens (docs/language.md), "
            "or, to predict tokens without an attack, yield (ids, labels)"
        )
    inputs = [key for key in _INPUTS if key in batch]
    labels = [key for key in _LABELS if key in batch]
    if len(inputs) != 1 or len(labels) != 1:
        raise ValueError(
            f"the loader yields a dict with the keys {keys}; let it have inputs under one of "
            f"{', '.join(_INPUTS)} and labels under one of {', '.join(_LABELS)}, or yield (x, y)"
        )
    return batch[inputs[0]], batch[labels[0]]


def _usable(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def length_of(loader: object) -> int | None:
    """Return the number of batches of a loader, or None where it has no length."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # a DataLoader has a __len__ even where its data set has none
        return None


def check_loader(loader: Batches, epochs: int) -> None:
    """Raise a ValueError for an iterator, which has no batches left after one epoch."""
    spent = isinstance(loader, Iterator) and type(loader).__module__ == "builtins"
    if spent and epochs > 1:
        raise ValueError(
            f"the loader is a {type(loader).__name__}, which can be gone through once, and there "
            f"are {epochs} epochs; give a DataLoader or a list of batches"
        )


def nothing_left(epoch: int) -> ValueError:
    """Return the error for an epoch, counted from 0, that had no batch."""
    if epoch == 0:
        return ValueError(
            "the loader has no batches: is the data set smaller than one batch, or the loader an "
            "iterator that is used up?"
        )
    return ValueError(
        f"the loader has no batches left in epoch {epoch + 1}; give one that starts anew at each "
        "epoch, such as a DataLoader or a list, not an iterator"
    )


@contextmanager
def lonely_batches_explained() -> Iterator[None]:
    """Inside this context, explain the error of batch norm for a batch of one example."""
    try:
        yield
    except ValueError as error:
        if _LONELY not in str(error):
            raise
        raise ValueError(_lonely("a batch has")) from error


def _lonely(what: str) -> str:
    return (
        f"{what} a single example (for each rank), for which batch norm has nothing to normalise "
        "by; give the loader drop_last=True or another batch size"
    )


@torch.no_grad()
def first_check(
    model: nn.Module, x: Tensor, y: Tensor, objective: object, loader: Batches | None = None
) -> Tensor | None:
    """Check the first batch, whose mistakes would cause obscure errors in torch, and return its
    logits. The state of the random generators is restored afterwards.

    Which batches are valid depends on the objective, see `minmax.result.Objective`.

    Args:
        loader: the loader for training in train mode; None if the network is only evaluated.

    Raises:
        ValueError: the batch does not fit; the message says how and what to do.
    """
    moves = getattr(objective, "moves_inputs", False)
    if moves or x.dtype not in (torch.int32, torch.int64):
        _check_inputs(x)
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the first batch has non-finite inputs (NaN or infinity)")
    if not getattr(objective, "class_labels", True):
        return None
    states = generator_states()
    try:
        with evaluating(model):
            logits = _explained(model, x)
        if loader is not None and len(x) > 1 and _ends_alone(loader):
            _try_alone(model, x)
    finally:
        restore_generators(states)
    tokens = logits.ndim == 3 and y.ndim == 2
    if tokens and moves:
        raise ValueError(
            f"labels of shape {tuple(y.shape)} are one a token, and {type(objective).__name__} "
            "moves its inputs, which knows one label an example; take Natural()"
        )
    if logits.ndim not in (2, 3) or logits.shape[:-1] != y.shape[: logits.ndim - 1]:
        raise ValueError(
            f"the model must map a batch to logits of shape (N, classes), or (N, T, classes) with "
            f"a label for each of T tokens; got {tuple(logits.shape)} for labels of shape "
            f"{tuple(y.shape)}"
        )
    check_labels(y, logits, wait=True)
    return logits


def _check_inputs(x: Tensor) -> None:
    if x.is_floating_point():
        return
    what = "scale them first, for images x.float() / 255"
    if x.dtype in (torch.int32, torch.int64):
        what = (
            "an attack moves inputs by fractions; scale images as x.float() / 255, and pack token "
            "ids with robustprune.packing.pack_tokens (docs/language.md)"
        )
    raise ValueError(f"inputs must be floating point, got {x.dtype}; {what}")


def _explained(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits, or raise a one-line error with the reason where torch fails."""
    try:
        return logits_of(model, x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if not any(isinstance(module, nn.Embedding) for module in model.modules()):
            _check_inputs(x)  # a network without embeddings can't use whole numbers
        if isinstance(error, ValueError) or (
            isinstance(error, TypeError) and "forward()" not in str(error)
        ):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the model does not take a batch of shape {tuple(x.shape)}: {reason}"
        ) from error


def _ends_alone(loader: object) -> bool:
    """Return whether it is known that the last batch has only one example."""
    if isinstance(loader, list | tuple):
        return len(pair_of(loader[-1])[1]) == 1
    size, data = getattr(loader, "batch_size", None), getattr(loader, "dataset", None)
    number = None if data is None else length_of(getattr(loader, "sampler", None) or data)
    if not isinstance(size, int) or number is None or getattr(loader, "drop_last", False):
        return False
    return number % size == 1


def _try_alone(model: nn.Module, x: Tensor) -> None:
    """Call a copy of the model in train mode with one example, which makes batch norm fail."""
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return
    try:
        logits_of(copy_of(model).train(), x[:1])
    except ValueError as error:
        if _LONELY not in str(error):
            raise
        raise ValueError(_lonely("the loader's last batch has")) from error


def check_labels(y: Tensor, logits: Tensor, *, wait: bool = False) -> None:
    """Raise a ValueError unless labels are class indices, one for each example or each token. On
    an accelerator their values are checked only if `wait`, because that takes time."""
    shape = "(N,)" if logits.ndim == 2 else "(N, T)"
    if y.dtype != torch.int64 or y.ndim != logits.ndim - 1:
        raise ValueError(f"labels must be int64 of shape {shape}, got {y.dtype} {tuple(y.shape)}")
    if (wait or y.device.type == "cpu") and bool((_inside(y, logits.shape[-1]) != y).any()):
        raise _outside(y, logits.shape[-1])


def _inside(y: Tensor, classes: int) -> Tensor:
    """Clamp labels to 0..C − 1; labels of tokens may also be −100, which stays."""
    inside = y.clamp(0, classes - 1)
    return inside if y.ndim == 1 else torch.where(y == IGNORED, y, inside)


def _outside(y: Tensor, classes: int) -> ValueError:
    counted = y if y.ndim == 1 else y[y != IGNORED]
    low, high = (int(value) for value in torch.aminmax(counted))
    ignored = " (-100 marks labels to ignore: leave such examples out)" if low == IGNORED else ""
    return ValueError(
        f"labels must lie in 0..{classes - 1} for a model with {classes} outputs, got "
        f"{low}..{high}{ignored}"
    )


class LabelCheck:
    """Check the labels of each batch without making an accelerator wait.

    A label outside the classes is clamped, so that no kernel fails on it. The error is raised when
    the step reads its loss. Objectives without class labels are not checked.
    """

    def __init__(self) -> None:
        self.looked = False
        self.like: Tensor | None = None  # the first logits, of which only the shape is used
        self._last: Tensor | None = None  # labels of the last batch, on an accelerator
        self._bad: Tensor | None = None

    def __call__(self, y: Tensor, look: Callable[[], Tensor | None]) -> Tensor:
        """Return the labels, inside 0..C − 1. `look` returns the logits of the first batch."""
        if not self.looked:
            logits, self.looked = look(), True
            self.like = None if logits is None else logits.detach().to("meta")
        if self.like is None:
            return y
        check_labels(y, self.like)
        return y if y.device.type == "cpu" else self.brought_inside(y, self.like.shape[-1])

    def brought_inside(self, y: Tensor, classes: int) -> Tensor:
        """Return the clamped labels, as on an accelerator, and remember whether any was outside."""
        self._last, inside = y, _inside(y, classes)
        self._bad = (inside != y).any()
        return inside

    def flag(self) -> Tensor | None:
        """Return NaN if the last batch had a label outside, else 0; None if already checked."""
        return None if self._bad is None else torch.where(self._bad, torch.nan, 0.0)

    def complain(self) -> None:
        """Raise a ValueError if the last batch had a label outside the classes."""
        if self._bad is None or not bool(self._bad):
            return
        assert self._last is not None
        assert self.like is not None
        raise _outside(self._last, self.like.shape[-1])
