"""A task by name."""

from pathlib import Path

from robustprune.run.suggest import did_you_mean
from robustprune.tasks.arrays import npz_task
from robustprune.tasks.images import cifar10, fashion_mnist, mnist
from robustprune.tasks.layout import Layout
from robustprune.tasks.series_files import csv_task, series_task
from robustprune.tasks.task import Task
from robustprune.tasks.text import Encoder, text_names, text_task
from robustprune.tasks.timeseries import packaged_ucr, ucr_from_folder
from robustprune.tasks.uneven import Length, Missing

_PACKAGED = {"ecg200": "ECG200", "sony_aibo_1": "SonyAIBORobotSurface1"}
_IMAGES = {"cifar10": cifar10, "fashion_mnist": fashion_mnist, "mnist": mnist}
_UCR = "ucr:<Name>"
_OWN = ("csv", "npz", "series")  # from the path that the user gives


def task_names() -> list[str]:
    """The names that `load_task` knows; 'ucr:<Name>' is any set of the UCR and UEA archives."""
    return sorted([*_PACKAGED, *_IMAGES, *_OWN, _UCR, *text_names()])


def load_task(
    name: str,
    *,
    data_dir: Path | None = None,
    path: Path | None = None,
    bounds: tuple[float, float] | None = None,
    length: Length = "refuse",
    missing: Missing = "refuse",
    label: str = "first",
    header: bool | None = None,
    layout: Layout | None = None,
    encoder: Encoder | None = None,
    download: bool = True,
) -> Task:
    """Load a data set into memory, checked.

    Args:
        name: ecg200 and sony_aibo_1 (packaged, need no files), mnist, fashion_mnist, cifar10,
            ucr:<Name> for a set of the UCR or UEA archive, or an own file or pair of files: npz,
            csv, or series (.tsv, .ts, .arff); text data sets are listed in `text`.
        data_dir: folder of the data sets (see `images` and `timeseries` for the layout); default
            the environment variable ROBUSTPRUNE_DATA, else ~/.cache/robustprune.
        path: the file or folder; only for npz (see `arrays` for its keys and layout), csv,
            series (see `series_files`) and text (see `text_files`).
        bounds: the range of valid inputs; only for npz.
        length, missing: what to do about series of unequal length and missing values (see
            `uneven`); only for csv, series and ucr:<Name>.
        label: the column of the labels, first or last; only for csv.
        header: whether the first row names the columns of a .csv or .tsv; None tells it from the
            row, see `header`; only for csv, series and ucr:<Name>.
        layout: where the channels of arrays are, first or last; None tells it from the shape, see
            `layout`; only for npz.
        encoder: what turns sentences into codes, for text data sets, which need one.
        download: fetch missing image sets through torchvision.

    Raises:
        ValueError: an unknown name (with the nearest), an argument the task does not take, or
            malformed data.
        FileNotFoundError: a missing folder or file, or a download that failed.
    """
    ucr, text = name.startswith("ucr:"), name in text_names()
    if not ucr and not text and name not in (*_PACKAGED, *_IMAGES, *_OWN):
        raise ValueError(
            f"unknown task '{name}'{did_you_mean(name, task_names())}; "
            f"use one of {', '.join(task_names())}"
        )
    if name in _OWN and path is None:
        raise ValueError(f"task '{name}' needs path, what to load; give path=...")
    uneven = ucr or name in ("csv", "series")
    for argument, value, default, taken, use in (
        ("path", path, None, name in (*_OWN, "text"), ", ".join([*_OWN, "text"])),
        ("bounds", bounds, None, name == "npz", "npz"),
        ("length", length, "refuse", uneven, "csv, series or ucr:<Name>"),
        ("missing", missing, "refuse", uneven, "csv, series or ucr:<Name>"),
        ("label", label, "first", name == "csv", "csv"),
        ("header", header, None, uneven, "csv, series or ucr:<Name>"),
        ("layout", layout, None, name == "npz", "npz"),
        ("encoder", encoder, None, text, ", ".join(text_names())),
    ):
        if value != default and not taken:
            raise ValueError(
                f"task '{name}' takes no {argument}, got {value}; leave it out, or use task {use}"
            )
    if text:
        if encoder is None:
            raise ValueError(f"task '{name}' needs an encoder, such as models.SentenceTokenizer()")
        return text_task(name, encoder, data_dir=data_dir, path=path)
    if ucr:
        set_name = name.removeprefix("ucr:")
        return ucr_from_folder(
            set_name, data_dir=data_dir, length=length, missing=missing, header=header
        )
    if name in _PACKAGED:
        return packaged_ucr(name, _PACKAGED[name])
    if name in _IMAGES:
        return _IMAGES[name](data_dir=data_dir, download=download)
    own = Path(str(path)).expanduser()
    if name == "csv":
        return csv_task(own, label=label, length=length, missing=missing, header=header)
    if name == "series":
        return series_task(own, length=length, missing=missing, header=header)
    return npz_task(own, bounds=bounds, layout=layout)
