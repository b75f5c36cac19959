"""The table of sparse training: how each method starts, prunes and grows, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from robustprune.sparsity import AllocationName

Growth = Literal["random", "gradient"]


@dataclass(frozen=True)
class SparseMethod:
    """One row. Numbers that `train_sparse` takes as options are the method's own here.

    Attributes:
        allocate: how the density is shared out to layers at the start.
        cut: how weights are compared where the density falls; None as at the start.
        first: the density at the start; None for the density of the end, 1 for a dense network.
        ramp: the fraction of the training at which the density of the end is reached.
        drop, drop_end: ζ, the share of its active weights that a layer drops in an update, at the
            start and at the end.
        fall: how ζ falls: along a cosine, or in MEST's stairs.
        of_all: whether ζ is a share of all weights of the layer, at most half of the active ones.
        by_sign: whether the same share of positive and of negative weights is dropped (SET).
        grow: whether random weights grow, or those with the largest dense gradient.
        extra: whether new weights come on top of the density until the next update (MEST EM&S).
        more_drop, more_growth: where validation shows that the training overfits, the shares of
            what is dropped that are dropped and grown on top of it (Flying Bird+).
        window: how many differences between validations are looked at for that.
        projected: whether weights outside the mask get gradients, too, and are set to zero again.
        updates: the number of updates between `start` and `stop`; None for one each epoch, or one
            each step if `projected`.
        start, stop: the fractions of the training between which the updates are.
        slower: the factor of the interval in the second half.
    """

    allocate: AllocationName = "erk"
    cut: AllocationName | None = None
    first: float | None = None
    ramp: float = 1.0
    drop: float = 0.0
    drop_end: float = 0.0
    fall: Literal["cosine", "stairs"] = "cosine"
    of_all: bool = False
    by_sign: bool = False
    grow: Growth = "random"
    extra: bool = False
    more_drop: float = 0.0
    more_growth: float = 0.0
    window: int = 4
    projected: bool = False
    updates: int | None = 0
    start: float = 0.0
    stop: float = 1.0
    slower: float = 1.0

    def share(self, done: int, updates: int) -> float:
        """Return ζ of update number `done` of `updates`.

        cosine: ζ_end + (ζ − ζ_end) (1 + cos(π i/n)) / 2
        stairs: ζ until 3/4, (ζ + ζ_end)/2 until the last, which has ζ_end
        """
        if self.fall == "stairs":
            late = (4 * done >= 3 * updates) + (done >= updates)
            return (self.drop, (self.drop + self.drop_end) / 2, self.drop_end)[late]
        wave = (1 + math.cos(math.pi * done / updates)) / 2
        return self.drop_end + (self.drop - self.drop_end) * wave

    def counts(
        self, alive: int, number: int, share: float, gap: bool = False, stalls: bool = False
    ) -> tuple[int, int]:
        """Return how many of a layer's groups stay in an update, and how many there are after it.

        Args:
            alive: the number of active groups, of `number` in all.
            share: ζ.
            gap, stalls: whether validation shows a rising gap, and a loss that does not fall.
        """
        moved = round(share * (number if self.of_all else alive))
        if self.extra:
            return alive, min(alive + moved, number)
        moved = min(moved, alive // 2) if self.of_all else moved
        kept = max(alive - moved - gap * round(self.more_drop * moved), 0)
        after = kept + moved + stalls * round(self.more_growth * moved)
        return kept, min(max(after, 1), number)

    @property
    def fixed(self) -> bool:
        """Whether it has no numbers to choose: nothing moves, or every step projects."""
        return self.updates == 0 or self.projected

    @property
    def adaptive(self) -> bool:
        """Whether the density follows what validation measures."""
        return self.more_drop > 0 or self.more_growth > 0

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers."""
        starts = self.first != 1.0 and not self.projected
        return starts or (self.grow == "random" and self.drop > 0)

    @property
    def moves_density(self) -> bool:
        """Whether the network is not at its final density all the time."""
        return self.first is not None or self.extra


#: Zhu & Gupta 2017, arXiv 1710.01878
_GRADUAL = SparseMethod(allocate="layer", first=1.0, ramp=0.75, updates=100, stop=0.75)
#: Yuan et al. 2021, arXiv 2110.14032: every 5 epochs; 2% until epoch 90, 1% until 120, of 160
_MEST = SparseMethod(
    allocate="layer", drop=0.02, fall="stairs", of_all=True, updates=24, stop=0.75
)  # fmt: skip
#: Chen et al. 2022, ICLR, "Sparsity winning twice": every 900 steps of 70,400, then every 1,200
_FLYING = SparseMethod(allocate="igq", drop=0.5, drop_end=0.005, updates=78, slower=4 / 3)

SPARSE_METHODS: Mapping[str, SparseMethod] = {
    "gradual": _GRADUAL,
    "static": SparseMethod(),
    # Mocanu et al. 2018, arXiv 1707.04780
    "set": SparseMethod(drop=0.3, drop_end=0.3, by_sign=True, updates=None),
    # Evci et al. 2020, arXiv 1911.11134
    "rigl": SparseMethod(drop=0.3, grow="gradient", updates=100, stop=0.75),
    # Liu et al. 2021, arXiv 2102.02887: every 1,500 steps of 62,500
    "itop": SparseMethod(drop=0.5, drop_end=0.005, updates=41),
    "mest": _MEST,
    "mest_ems": replace(_MEST, extra=True),
    # Liu et al. 2021, arXiv 2106.10404: every 1,000 steps of 62,500; dense enough until 110 of 160
    "granet": SparseMethod(
        cut="global", first=0.5, ramp=110 / 160, drop=0.5, drop_end=0.005, grow="gradient",
        updates=62,
    ),
    # Blumensath & Davies 2009, arXiv 0805.0510, Eq. 9, for networks
    "hard_thresholding": SparseMethod(allocate="layer", projected=True, updates=None),
    "flyingbird": _FLYING,
    "flyingbird_plus": replace(_FLYING, more_drop=0.4, more_growth=0.05),
}  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """When the masks are updated, and how dense the network is after each update.

    Attributes:
        numbers: the steps (counted from 1) with an update, and the number of each, from 1.
        ramp: the number of the update with which the density of the end is reached.
    """

    numbers: Mapping[int, int]
    ramp: int

    @property
    def updates(self) -> int:
        return len(self.numbers)

    def density(self, done: int, first: float, last: float) -> float:
        """Return d_i = d + (d_0 − d) (1 − i/n)³ after update i of the n on the ramp."""
        left = 1 - min(done, self.ramp) / self.ramp
        return last + (first - last) * left**3


def schedule(
    method: SparseMethod, every: int | None, steps_per_epoch: int, epochs: int
) -> Schedule:
    """Place the updates of a method in a training.

    Args:
        every: the number of steps between two updates; None for the method's number of updates.

    Raises:
        ValueError: there is no step for an update, or none on the ramp.
    """
    total = steps_per_epoch * epochs
    first = int(method.start * total)
    way = int(method.stop * total) - first
    if every is None:
        if method.updates is None:
            every = 1 if method.projected else steps_per_epoch
        else:
            every = max(1, way // max(method.updates, 1))
    numbers: dict[int, int] = {}
    step = first + every
    last = first + way
    reaches = method.extra or (method.first is not None and method.ramp == 1)
    if last == total and not reaches and not method.projected:
        last -= 1  # what grows in the last step would never be trained
    while step <= last:
        numbers[step] = len(numbers) + 1
        late = 2 * (step - first) >= way
        step += round(every * method.slower) if late else every
    if not numbers:
        raise ValueError(
            f"every={every} leaves no update between start={method.start:g} and "
            f"stop={method.stop:g} of {total} steps, which are {way}; lower it, or train longer"
        )
    on_ramp = sum(step <= int(method.ramp * total) for step in numbers)
    if method.first is not None and not on_ramp:
        raise ValueError(
            f"ramp={method.ramp:g} ends before the first of {len(numbers)} updates; raise it"
        )
    return Schedule(numbers, max(on_ramp, 1))


def chosen_method(name: str, density: float, **options: Any) -> SparseMethod:
    """Return the row of a method with the options that are given.

    Raises:
        ValueError: the method is unknown, or an option is out of range or has no effect.
    """
    if name not in SPARSE_METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(SPARSE_METHODS)}")
    given = {key: value for key, value in options.items() if value is not None}
    row = SPARSE_METHODS[name]
    for key in options if row.fixed else ():
        if key in given:
            raise ValueError(f"{key}={given[key]!r} is no option of method {name}; leave it out")
    every = given.pop("every", 1)
    method = replace(row, **given)
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every={every} must be at least 1, in whole steps")
    check_way(method.start, method.stop)
    for key in ("drop", "drop_end", "more_drop", "more_growth"):
        if not 0 <= getattr(method, key) <= 1:
            raise ValueError(f"{key}={given[key]!r} must be a share from 0 to 1")
    if method.grow not in ("random", "gradient"):
        raise ValueError(f"unknown grow={method.grow!r}; choose random or gradient")
    if "grow" in given and not method.drop and not method.drop_end:
        raise ValueError(f"grow={method.grow!r} has no effect with drop=0; set drop, or leave it")
    if method.first is not None and not density <= method.first <= 1:
        raise ValueError(
            f"first={method.first:g} is the density at the start, and must be from {density:g} to 1"
        )
    if method.first is None and "ramp" in given:
        raise ValueError(f"ramp={method.ramp:g} has no effect without first, the density at first")
    if not 0 < method.ramp <= 1:
        raise ValueError(f"ramp={method.ramp:g} must be a fraction of the training in (0, 1]")
    return method


def check_way(start: float, stop: float) -> None:
    """Raise a ValueError unless 0 ≤ start < stop ≤ 1."""
    if not 0 <= start < stop <= 1:
        raise ValueError(
            f"start={start:g} and stop={stop:g} must be fractions of the training with "
            "0 <= start < stop <= 1"
        )
