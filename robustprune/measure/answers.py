"""The logits of a network, and its adversarial examples, in batches: what most measures need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks import Attack, Model
from attacks.inputs import batch_of, check_at_least, predict
from attacks.modes import evaluating
from attacks.returned import attacked, check_radii, for_examples
from robustprune.run.progress import progress

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@torch.no_grad()
def all_logits(
    model: Model, x: Tensor, y: Tensor | None = None, *, batch_size: int | None = None
) -> Tensor:
    """Return f(x) in eval mode, (N, C) float64 on the CPU.

    Args:
        x: (N, ...), on the model's device.
        y: (N,) the labels, which are checked against the number of classes; None where there are
            none.
        batch_size: the number of examples at a time; None for all at once.

    Raises:
        ValueError: there is not one whole number for each example, a label is no class, or a logit
            is NaN or +∞.
    """
    if batch_size is not None:
        check_at_least(1, batch_size=batch_size)
    labels = torch.zeros(len(x), dtype=torch.int64) if y is None else checked_labels(y, len(x))
    labels = labels.to(x.device)
    with evaluating(model):
        parts = [
            predict(model, x[rows], labels[rows]).double().cpu() for rows in _rows(x, batch_size)
        ]
    return torch.cat(parts)


@torch.inference_mode(False)
def adversarial_examples(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    batch_size: int | None = None,
    title: str = "attacking",
    quiet: bool = True,
) -> Tensor:
    """Return what an attack makes of each example, shaped like x, inside its threat model.

    Examples that are misclassified already are attacked as well.

    Raises:
        ValueError: as in `attacks.returned.attacked`.
    """
    x, y = batch_of(x, y)
    check_radii(attack, x)
    found = torch.empty_like(x)
    with evaluating(model):
        for rows in progress(list(_rows(x, batch_size)), title=title, unit="batch", quiet=quiet):
            index = torch.arange(rows.start, rows.stop, device=x.device)
            found[rows] = attacked(for_examples(attack, x, index), model, x[rows], y[rows])
    return found


@torch.inference_mode(False)
def worst_examples(
    model: Model,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    batch_size: int | None = None,
    title: str = "attacking",
    quiet: bool = True,
) -> Tensor:
    """Return the worst of what several attacks make of each example, shaped like x.

    A misclassified point is worse than one that is not, and of two alike the one with the larger
    cross-entropy. The example itself is one of the points. So an example is right here only if it
    is right without an attack and under each of them, as in `evaluate`, whose batches these are.

    Args:
        attacks: by name; each returns points inside its threat model.

    Raises:
        ValueError: there is no attack, or as in `attacks.returned.attacked`.
    """
    x, y = batch_of(x, y)
    if not attacks:
        raise ValueError("attacks is empty; give at least one attack")
    for attack in attacks.values():
        check_radii(attack, x)
    worst = x.clone()
    with evaluating(model):
        for rows in progress(list(_rows(x, batch_size)), title=title, unit="batch", quiet=quiet):
            wrong = _harm(model, x[rows], y[rows])[0]
            for part in (~wrong, wrong):  # `evaluate` attacks those alone that are right
                index = part.nonzero().flatten() + rows.start
                if len(index):
                    worst[index] = _worst(model, x, y, attacks, index)
    return worst


def _worst(
    model: Model, x: Tensor, y: Tensor, attacks: Mapping[str, Attack], index: Tensor
) -> Tensor:
    """Return the worst points of the examples with this index."""
    worst = x[index]
    wrong, loss = _harm(model, worst, y[index])
    for attack in attacks.values():
        found = attacked(for_examples(attack, x, index), model, x[index], y[index])
        now_wrong, now_loss = _harm(model, found, y[index])
        worse = (now_wrong & ~wrong) | ((now_wrong == wrong) & (now_loss > loss))
        worst[worse] = found[worse]
        wrong, loss = wrong | now_wrong, torch.where(worse, now_loss, loss)
    return worst


@torch.no_grad()
def _harm(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each example is misclassified, and its cross-entropy."""
    logits = predict(model, x, y)
    return logits.argmax(1) != y, F.cross_entropy(logits.double(), y, reduction="none")


def checked_labels(y: Tensor, n: int) -> Tensor:
    """Return labels as int64, (n,).

    Raises:
        ValueError: there is not one whole number for each of the n examples.
    """
    if not isinstance(y, Tensor) or y.dtype not in _WHOLE or y.shape != (n,):
        what = f"{y.dtype}, {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"the labels are {what}; give whole numbers of shape ({n},), as y.long()")
    return y.long()


def group_codes(groups: Sequence[object] | Tensor, n: int) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the groups, sorted, and the place of each example's group among them.

    Raises:
        ValueError: there is not one group for each of the n examples.
    """
    said = [str(one) for one in (groups.tolist() if isinstance(groups, Tensor) else groups)]
    if len(said) != n:
        raise ValueError(f"there are {len(said)} groups for {n} examples; give one per example")
    names = tuple(sorted(set(said)))
    return names, torch.tensor([names.index(one) for one in said], dtype=torch.int64)


def _rows(x: Tensor, batch_size: int | None) -> Iterator[slice]:
    size = batch_size or max(len(x), 1)
    for start in range(0, max(len(x), 1), size):
        yield slice(start, min(start + size, len(x)))
