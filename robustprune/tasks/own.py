"""Read the user's own data by the name of their task: npz, csv, series, images, parquet."""

from __future__ import annotations

from pathlib import Path

from robustprune.tasks.arrays import npz_data
from robustprune.tasks.layout import Layout
from robustprune.tasks.parquet import parquet_data
from robustprune.tasks.parts import Bounds, OwnData
from robustprune.tasks.series_files import ARCHIVE, series_data
from robustprune.tasks.uneven import Length, Missing

#: each task with the options that it takes beside path, bounds and test
OWN: dict[str, tuple[str, ...]] = {
    "csv": ("label", "header", "length", "missing", "layout"),
    "images": ("size",),
    "npz": ("layout",),
    "parquet": ("label", "length", "missing", "layout", "size"),
    "series": ("header", "length", "missing", "layout"),
}


def read_own(
    name: str,
    path: Path,
    *,
    bounds: Bounds = None,
    length: Length = "refuse",
    missing: Missing = "refuse",
    label: str = "first",
    header: bool | None = None,
    layout: Layout | None = None,
    size: int | None = None,
) -> OwnData:
    """Read the data at `path` as the task `name`, one of `OWN`; see `load_task` for the options.

    Raises:
        FileNotFoundError, ImportError, ValueError: as in the reader of the task.
    """
    path = path.expanduser()
    if name == "npz":
        return npz_data(path, bounds=bounds, layout=layout)
    if name == "images":
        from robustprune.tasks.image_folder import folder_data  # torchvision is slow to import

        return folder_data(path, bounds=bounds, size=size)
    if name == "parquet":
        return parquet_data(
            path, label=label, length=length, missing=missing, layout=layout, size=size,
            bounds=bounds,
        )  # fmt: skip
    suffixes = (".csv",) if name == "csv" else tuple(ARCHIVE)
    return series_data(
        path, suffixes=suffixes, label=label, length=length, missing=missing, header=header,
        layout=layout, bounds=bounds,
    )  # fmt: skip
