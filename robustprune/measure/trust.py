"""Everything that is measured of a compressed classifier beside the dense one, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from attacks import Attack
from robustprune.measure.answers import (
    all_logits,
    checked_labels,
    group_codes,
    worst_examples,
)
from robustprune.measure.calibration import (
    Calibration,
    brier_scores,
    calibration_of,
    gaps,
    losses,
)
from robustprune.measure.change import Change, changes
from robustprune.measure.disagreement import Disagreement, disagreement_of
from robustprune.measure.fairness import cells, check_groups, odds_of, parity_of, worst_of
from robustprune.measure.ood import energy, max_softmax
from robustprune.measure.paired import OnExamples, OnScores
from robustprune.measure.shift import SEVERITIES, corrupt, corruption_names

#: with more classes, accuracy by class is left out of the comparison
MOST_CLASSES = 20


@dataclass(frozen=True, repr=False)
class Trust:
    """What compression changes, for a classifier.

    Attributes:
        n: the number of examples.
        changes: every measure of both networks, those that got worse most clearly first.
        disagreement: how the answers differ, by class and by group.
        calibration, attacked: (dense, compressed), clean and under attack; None without an attack.
    """

    n: int
    changes: tuple[Change, ...]
    disagreement: Disagreement
    calibration: tuple[Calibration, Calibration]
    attacked: tuple[Calibration, Calibration] | None

    def __repr__(self) -> str:
        worse = [one.name for one in self.changes if one.verdict == "worse"]
        better = [one.name for one in self.changes if one.verdict == "better"]
        return (
            f"Trust(n={self.n}, measures={len(self.changes)}, worse: "
            f"{', '.join(worse) or 'none shown'}; better: {', '.join(better) or 'none shown'})"
        )


@dataclass(frozen=True)
class _Seen:
    """The outputs of one network on the examples, clean, attacked and outside, and which corrupted
    examples it has right."""

    clean: Tensor
    attacked: Tensor | None
    corrupted: dict[str, Tensor]
    outside: Tensor | None
    members: Tensor | None
    others: dict[str, Tensor]


def compare_trust(
    dense: nn.Module,
    compressed: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Attack | Mapping[str, Attack] | None = None,
    members: tuple[Tensor, Tensor] | None = None,
    outside: Tensor | None = None,
    groups: Sequence[object] | None = None,
    names: Sequence[str] | None = None,
    corruptions: Sequence[str] | Mapping[str, Tensor] | None = None,
    others: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    quiet: bool = True,
) -> Trust:
    """Measure what compression changes, on the same test examples for both networks.

    Accuracy (in all, by class, under attack), calibration clean and under attack (ECE, NLL, Brier),
    accuracy under each common corruption, detection of outside examples, membership inference and
    fairness, where the arguments allow it; see `changes` for the tests.

    Args:
        x: (N, ...), y: (N,) test examples, on the networks' device.
        attack: makes adversarial examples of each network; of several by name, each example gets
            the worst (`worst_examples`); None leaves them out.
        members: (x, y) of training examples, for membership inference; None leaves it out.
        outside: examples from outside of the distribution, such as `surrogates(x)`.
        groups: the group of each test example, for fairness.
        names: the names of the classes.
        corruptions: names; None for all that fit the shape of x (images must lie in [0, 1]); () for
            none. Or corrupted examples of your own: name -> (severities, N, ...).
        others: further test sets with labels, such as AdvGLUE: name -> (x, y).

    Raises:
        ValueError: there are fewer than two examples or groups, arguments do not fit, a label is no
            class, or a logit is NaN.
    """
    labels = checked_labels(y, len(x)).cpu()
    if len(y) < 2:
        raise ValueError(f"a comparison needs at least two examples, got {len(y)}")
    if names is not None and len(names) <= int(labels.max()):
        raise ValueError(f"there are {len(names)} names for labels up to {int(labels.max())}")
    if groups is not None:
        check_groups(groups, len(y))
    chosen = corruption_names(x) if corruptions is None else corruptions
    seen = [
        _seen(
            model, x, y, attack, members, outside, chosen, others or {}, seed, batch_size, title,
            quiet,
        )
        for model, title in ((dense, "dense"), (compressed, "compressed"))
    ]  # fmt: skip
    first, second = seen
    clean = calibration_of(first.clean, labels), calibration_of(second.clean, labels)
    attacked = None
    if first.attacked is not None and second.attacked is not None:
        attacked = calibration_of(first.attacked, labels), calibration_of(second.attacked, labels)
    measures: list[OnExamples | OnScores] = [
        *_accuracies(first, second, labels, names),
        *_calibrations(first.clean, second.clean, labels, ""),
        *_shifts(first, second),
        *_on_others(first, second),
        *_detections(first, second),
        *_memberships(first, second, labels, None if members is None else members[1].cpu()),
    ]
    if first.attacked is not None and second.attacked is not None:
        measures += _calibrations(first.attacked, second.attacked, labels, ", attacked")
    if groups is not None:
        measures += _fairness(first.clean, second.clean, labels, groups)
    return Trust(
        len(y),
        changes(measures, seed=seed),
        disagreement_of(first.clean, second.clean, labels, names=names, groups=groups),
        clean,
        attacked,
    )


def _seen(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack | Mapping[str, Attack] | None,
    members: tuple[Tensor, Tensor] | None,
    outside: Tensor | None,
    corruptions: Sequence[str] | Mapping[str, Tensor],
    others: Mapping[str, tuple[Tensor, Tensor]],
    seed: int,
    batch_size: int | None,
    title: str,
    quiet: bool,
) -> _Seen:
    def logits(inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        return all_logits(model, inputs, labels, batch_size=batch_size)

    found = None
    if attack is not None:
        attacks = attack if isinstance(attack, Mapping) else {"attack": attack}
        found = worst_examples(
            model, x, y, attacks, batch_size=batch_size, title=f"attacking {title}", quiet=quiet
        )

    def right_on(name: str) -> Tensor:
        made = (
            corruptions[name].to(x)
            if isinstance(corruptions, Mapping)
            else (corrupt(x, name, s, seed=seed) for s in SEVERITIES)
        )
        return torch.stack([logits(inputs).argmax(1) == y.cpu() for inputs in made])

    right = {name: right_on(name) for name in corruptions}
    return _Seen(
        logits(x, y),
        None if found is None else logits(found, y),
        right,
        None if outside is None else logits(outside),
        None if members is None else logits(*members),
        {name: _right(logits(*part), part[1].cpu()) for name, part in others.items()},
    )


def _right(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).double()


def _accuracies(
    first: _Seen, second: _Seen, y: Tensor, names: Sequence[str] | None
) -> Iterator[OnExamples]:
    before, after = _right(first.clean, y), _right(second.clean, y)
    yield OnExamples("accuracy", before, after, 1)
    if first.attacked is not None and second.attacked is not None:
        yield OnExamples(
            "accuracy, attacked", _right(first.attacked, y), _right(second.attacked, y), 1
        )
    classes = first.clean.shape[1]
    if 2 <= classes <= MOST_CLASSES:
        for label in torch.unique(y).tolist():
            mine = y == label
            name = label if names is None else names[label]
            yield OnExamples(f"accuracy, class {name}", before[mine], after[mine], 1)


def _calibrations(first: Tensor, second: Tensor, y: Tensor, where: str) -> Iterator[OnExamples]:
    def pair(name: str, read: Callable[[Tensor, Tensor], Tensor], **more: object) -> OnExamples:
        return OnExamples(f"{name}{where}", read(first, y), read(second, y), -1, **more)  # type: ignore[arg-type]

    yield pair("calibration error (ECE)", gaps, combine=_sum_of_sizes)
    yield pair("Brier score", brier_scores, unit="score")
    if all(bool(losses(one, y).isfinite().all()) for one in (first, second)):
        yield pair("negative log-likelihood", losses, unit="nats")
    else:  # it is infinite, and of no difference of two such values can be said anything
        yield pair("labels with a probability of zero", _impossible)
    wrong = (first.argmax(1) != y) & (second.argmax(1) != y)
    if int(wrong.sum()) > 1:
        sure = max_softmax(first)[wrong], max_softmax(second)[wrong]
        yield OnExamples(f"confidence where both are wrong{where}", *sure, -1)


def _impossible(logits: Tensor, y: Tensor) -> Tensor:
    return losses(logits, y).isinf().double()


def _sum_of_sizes(means: Tensor) -> Tensor:
    return means.abs().sum(1)


def _shifts(first: _Seen, second: _Seen) -> Iterator[OnExamples]:
    for name, right in first.corrupted.items():
        before, after = (one.double().mean(0) for one in (right, second.corrupted[name]))
        yield OnExamples(f"accuracy, {name}", before, after, 1)


def _on_others(first: _Seen, second: _Seen) -> Iterator[OnExamples]:
    for name, right in first.others.items():
        yield OnExamples(f"accuracy, {name}", right, second.others[name], 1)


def _detections(first: _Seen, second: _Seen) -> Iterator[OnScores]:
    if first.outside is None or second.outside is None:
        return
    for name, score in (("softmax", max_softmax), ("energy", energy)):
        yield OnScores(
            f"outside inputs found, {name} (AUROC)",
            (score(first.clean), score(first.outside)),
            (score(second.clean), score(second.outside)),
            1,
        )


def _memberships(
    first: _Seen, second: _Seen, y: Tensor, labels: Tensor | None
) -> Iterator[OnScores]:
    if first.members is None or second.members is None or labels is None:
        return
    yield OnScores(
        "members found by their loss (AUROC)",
        (-losses(first.members, labels), -losses(first.clean, y)),
        (-losses(second.members, labels), -losses(second.clean, y)),
        -1,
    )


def _fairness(
    first: Tensor, second: Tensor, y: Tensor, groups: Sequence[object]
) -> Iterator[OnExamples]:
    names, _ = group_codes(groups, len(y))
    shape = (-1, len(names), first.shape[1], first.shape[1])
    before, after = cells(first, y, groups), cells(second, y, groups)
    for name, read, better in (
        ("demographic parity difference", parity_of, -1),
        ("equalised odds difference", odds_of, -1),
        ("accuracy of the worst group", worst_of, 1),
    ):
        yield OnExamples(name, before, after, better, combine=partial(_of_table, read, shape))


def _of_table(read: Callable[[Tensor], Tensor], shape: tuple[int, ...], means: Tensor) -> Tensor:
    return read(means.view(shape))
