"""Load a task by its name."""

from pathlib import Path

from robustprune.run.suggest import did_you_mean
from robustprune.tasks.corpus import corpus_names
from robustprune.tasks.images import cifar10, fashion_mnist, mnist
from robustprune.tasks.layout import Layout
from robustprune.tasks.own import OWN, read_own
from robustprune.tasks.parts import own_task
from robustprune.tasks.split import dealt_task
from robustprune.tasks.task import Task
from robustprune.tasks.text import Encoder, text_names, text_task
from robustprune.tasks.timeseries import packaged_ucr, ucr_from_folder
from robustprune.tasks.uneven import Length, Missing

_PACKAGED = {"ecg200": "ECG200", "sony_aibo_1": "SonyAIBORobotSurface1"}
_IMAGES = {"cifar10": cifar10, "fashion_mnist": fashion_mnist, "mnist": mnist}
_UCR = "ucr:<Name>"


def task_names() -> list[str]:
    """Return the names that `load_task` knows; 'ucr:<Name>' is any set of the UCR and UEA
    archives."""
    return sorted([*_PACKAGED, *_IMAGES, *OWN, _UCR, *text_names()])


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
    test: float | None = None,
    size: int | None = None,
    encoder: Encoder | None = None,
    download: bool = True,
) -> Task:
    """Load a data set into memory and check it.

    The examples are in the order of the files. Where these list class after class, as folders of
    pictures do, the classes are dealt out in turn (see `split.dealing`), because a run measures and
    certifies the first n test examples.

    Args:
        name: ecg200 and sony_aibo_1 are packaged and need no files. mnist, fashion_mnist, cifar10
            and ucr:<Name> (a set of the UCR or UEA archive) are in `data_dir`. npz, csv, series
            (.tsv, .ts, .arff), images and parquet are files of your own, given by `path`. `text`
            lists the text data sets.
        data_dir: the folder of the data sets (`images` and `timeseries` describe its layout). The
            default is the environment variable ROBUSTPRUNE_DATA, or else ~/.cache/robustprune.
        path: the file or folder of your own data; only for npz (`arrays` describes its keys and
            layout), csv and series (see `series_files`), images (`image_folder`), parquet and text
            (`text_files`).
        bounds: the range (low, high) of valid inputs; only for your own data.
        length, missing: how series of unequal length and missing values are handled (see `uneven`);
            only for csv, series, parquet and ucr:<Name>.
        label: the column of the labels, "first", "last" or its name; only for csv and parquet.
        header: whether the first row of a .csv or .tsv names its columns; None decides by the row,
            see `header`; only for csv, series and ucr:<Name>.
        layout: the dimension of the channels, "channels_first" or "channels_last"; None decides by
            the shape, see `layout`; only for npz. Or "flat", which makes features (N, F) of npz,
            csv, series or parquet.
        test: the share of the examples that is held out for the test, in (0, 1), for your own data
            without a test split; every call holds out the same ones.
        size: the side of the squares to which pictures are scaled and cut; only for images and
            parquet.
        encoder: the tokenizer that turns sentences into codes; text data sets need it, others take
            none.
        download: whether missing image sets are downloaded through torchvision.

    Raises:
        ValueError: the name is unknown (the message names the nearest one), the task does not take
            an argument, or the data are malformed.
        FileNotFoundError: a folder or file is missing, or a download failed.
    """
    ucr, text = name.startswith("ucr:"), name in text_names()
    if not ucr and not text and name not in (*_PACKAGED, *_IMAGES, *OWN):
        if name in corpus_names():
            raise ValueError(
                f"task '{name}' is text for a causal language model, and no set of labelled "
                "examples; load it with load_corpus, or run it with model causal"
            )
        raise ValueError(
            f"unknown task '{name}'{did_you_mean(name, task_names())}; "
            f"use one of {', '.join(task_names())}"
        )
    if name in OWN and path is None:
        raise ValueError(f"task '{name}' needs path, the file or folder to load; give path=...")
    taken = (*OWN.get(name, ()), *(("path", "bounds", "test") if name in OWN else ()))
    taken += ("length", "missing", "header") if ucr else ("path",) if name == "text" else ()
    for argument, value, default in (
        ("path", path, None),
        ("bounds", bounds, None),
        ("test", test, None),
        ("length", length, "refuse"),
        ("missing", missing, "refuse"),
        ("label", label, "first"),
        ("header", header, None),
        ("layout", layout, None),
        ("size", size, None),
        ("encoder", encoder, None),
    ):
        if value != default and argument not in taken and not (text and argument == "encoder"):
            raise ValueError(
                f"task '{name}' takes no {argument}, got {value}; leave it out, or use task "
                f"{_takers(argument)}"
            )
    if text and encoder is None:
        raise ValueError(f"task '{name}' needs an encoder, such as models.SentenceTokenizer()")
    if text:
        assert encoder is not None
        task = text_task(name, encoder, data_dir=data_dir, path=path)
    elif ucr:
        set_name = name.removeprefix("ucr:")
        task = ucr_from_folder(
            set_name, data_dir=data_dir, length=length, missing=missing, header=header
        )
    elif name in _PACKAGED:
        task = packaged_ucr(name, _PACKAGED[name])
    elif name in _IMAGES:
        task = _IMAGES[name](data_dir=data_dir, download=download)
    else:
        data = read_own(
            name, Path(str(path)), bounds=bounds, length=length, missing=missing, label=label,
            header=header, layout=layout, size=size,
        )  # fmt: skip
        task = own_task(data, share=test)
    return dealt_task(task)


def _takers(argument: str) -> str:
    """Return the tasks that take an argument, for messages."""
    if argument == "encoder":
        return ", ".join(text_names())
    names = [n for n, options in OWN.items() if argument in (*options, "path", "bounds", "test")]
    also = {"path": "text"} | dict.fromkeys(("length", "missing", "header"), _UCR)
    return ", ".join([*names, *([also[argument]] if argument in also else [])])
