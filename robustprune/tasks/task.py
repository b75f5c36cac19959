"""The data of one classification problem, in memory and in input units."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustprune.tasks.check import check_examples, check_statistics

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their labels.

    Attributes:
        x: (N, ...) float32 in model input units: (N, C, H, W) images in [0, 1], (N, C, L) series,
            (N, F) features, (N, T, 3) codes of sentences.
        y: (N,) int64 class indices, on the same device.
        present: a function that turns stored examples into what a model takes, for data that are
            stored in a smaller form (sentences, see `robustprune.packing`); None where both are the
            same.

    Raises:
        ValueError: a dtype or dimension is wrong, or x and y have different lengths.
    """

    x: Tensor
    y: Tensor
    present: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.x.dtype != torch.float32 or self.x.ndim < 2:
            raise ValueError(
                f"x must be float32 of shape (N, ...), got {self.x.dtype} of shape "
                f"{tuple(self.x.shape)}; convert it with .float()"
            )
        if self.y.dtype != torch.int64 or self.y.ndim != 1:
            raise ValueError(
                f"y must be int64 of shape (N,), got {self.y.dtype} of shape "
                f"{tuple(self.y.shape)}; convert it with .long()"
            )
        if len(self.x) != len(self.y):
            raise ValueError(
                f"x has {len(self.x)} examples and y has {len(self.y)} labels; "
                "give one label per example"
            )

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> "Split":
        """Return the same split on `device`; nothing is copied where it is there already."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the examples `index` (int64 on the split's device, or a slice) as a model takes
        them."""
        x = self.x[index] if isinstance(index, slice) else self.x.index_select(0, index)
        y = self.y[index] if isinstance(index, slice) else self.y.index_select(0, index)
        return (x if self.present is None else self.present(x)), y


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem: its data, classes, range of valid inputs, statistics and source.

    Attributes:
        name: the name that `load_task` takes.
        train, test: the two splits. Choose models on a `holdout` of train, never on test.
        num_classes: C; labels are 0..C-1.
        class_names: the C names, in the order of the labels.
        bounds: the range of valid inputs, (0.0, 1.0) for images; None where there are no bounds.
        mean, std: statistics per channel for a `Normalize` layer inside the model, so that eps
            stays in input units; None for data that are normalised already.
        augment: a function (x, generator) -> x for training batches, or None.
        source: a text that says where the data come from, with the citation.
        support: a function from a batch to the entries that an adversary may change
            (`ThreatModel.support`), or None for all entries.
        texts: the test examples of a text task as they are written, the two sentences of a pair
            with a tab between them; None for other tasks.
        places: (N,) int64, where each test example is among those that the files list, if the
            order differs, see `split.dealing`; else None.

    Raises:
        ValueError: a split is empty, values are not finite or outside the bounds, labels are
            outside the classes or all of one class, train and test have different shapes, or the
            statistics do not fit the channels.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    bounds: tuple[float, float] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    augment: Augment | None
    source: str
    support: Callable[[Tensor], Tensor] | None = None
    texts: tuple[str, ...] | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"task '{self.name}': {len(self.class_names)} class names for "
                f"{self.num_classes} classes; give one name per class"
            )
        for where, split in (("train", self.train), ("test", self.test)):
            check_examples(
                split.x,
                split.y,
                num_classes=self.num_classes,
                bounds=self.bounds,
                where=f"task '{self.name}', {where} split",
            )
        if self.test.x.shape[1:] != self.train.x.shape[1:]:
            raise ValueError(
                f"task '{self.name}': test examples have shape {tuple(self.test.x.shape[1:])}, "
                f"training examples {self.input_shape}; make them the same"
            )
        if bool((self.train.y == self.train.y[0]).all()):
            raise ValueError(
                f"task '{self.name}', train split: all {len(self.train)} labels are of a single "
                f"class, '{self.class_names[int(self.train.y[0])]}'; at least 2 classes are needed"
            )
        check_statistics(self.mean, self.std, channels=self.input_shape[0], task=self.name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one stored example: (C, H, W), (C, L), (F,) or (T, 3)."""
        return tuple(self.train.x.shape[1:])
