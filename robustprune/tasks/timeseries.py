"""Load sets of the UCR and UEA archives: two are packaged, the others are read from a folder.

Univariate sets of the UCR archive are z-normalised (each series has mean 0 and standard deviation
1) and have no bounds, so eps is in units of the standard deviation. Sets of the UEA archive come as
they were recorded.

Dau et al., The UCR Time Series Archive, 2018, arXiv 1810.07758; Bagnall et al., The UEA
multivariate time series classification archive, 2018, arXiv 1811.00075.
"""

import re
from importlib import resources
from pathlib import Path

from robustprune.run.suggest import did_you_mean
from robustprune.tasks.folders import data_folder
from robustprune.tasks.lines import read_text
from robustprune.tasks.series_files import (
    ARCHIVE,
    find_files,
    parse_archive,
    parse_tsv,
    task_of,
    there,
)
from robustprune.tasks.task import Task
from robustprune.tasks.uneven import Length, Missing

_CITATION = (
    "Dau et al., The UCR Time Series Archive, 2018, arXiv 1810.07758",
    "Bagnall et al., The UEA multivariate time series classification archive, 2018, "
    "arXiv 1811.00075",
)


def packaged_ucr(task_name: str, set_name: str) -> Task:
    """Load the packaged UCR set `set_name` as the task `task_name`.

    x of train and test is (N, 1, L) float32.
    """
    folder = resources.files("robustprune") / "data" / "ucr"
    train, test = (
        parse_tsv((folder / name).read_text(encoding="utf-8"), where=name)
        for name in (f"{set_name}_TRAIN.tsv", f"{set_name}_TEST.tsv")
    )
    source = f"{set_name} of the UCR archive; {_CITATION[0]}"
    return task_of(task_name, train, test, source=source, length="refuse", missing="refuse")


def ucr_from_folder(
    set_name: str,
    *,
    data_dir: Path | None,
    length: Length = "refuse",
    missing: Missing = "refuse",
    header: bool | None = None,
) -> Task:
    """Load the set in DATA_DIR/UCR/<set_name>/ or DATA_DIR/<set_name>/, in the archives' layout.

    The folder holds <set_name>_TRAIN and <set_name>_TEST with the suffix .tsv, .ts or .arff, of
    which the first that exists is used. x of train and test is (N, C, L) float32.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: the name is not a plain name of a set, there is a symbolic link below DATA_DIR,
            or `series_task` would refuse the files.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", set_name):
        raise ValueError(
            f"'{set_name}' is no name of a UCR set; letters, digits, '-' and '_' only, "
            "for example ucr:ECGFiveDays"
        )
    root = data_folder(data_dir)
    candidates = [root / "UCR" / set_name, root / set_name]
    folder = next((c for c in candidates if c.is_dir()), None)
    if folder is None:
        known = [f.name for base in (root / "UCR", root) if base.is_dir() for f in base.iterdir()]
        raise FileNotFoundError(
            f"UCR set '{set_name}' is in neither {candidates[0]} nor {candidates[1]}"
            f"{did_you_mean(set_name, known)}; put {set_name}_TRAIN.tsv and {set_name}_TEST.tsv "
            "there, or name another data_dir"
        )
    named = [folder / f"{set_name}_TRAIN{suffix}" for suffix in ARCHIVE]
    file = next((f for f in named if there(f)), named[0])
    if not there(file):
        raise FileNotFoundError(
            f"no file {file}; put both _TRAIN and _TEST there, as {', '.join(ARCHIVE)}"
        )
    pair = find_files(file, tuple(ARCHIVE))
    train, test = (parse_archive(read_text(f, within=root), f, header=header) for f in pair)
    multivariate = len(train.examples[0]) > 1
    archive = "UEA" if multivariate else "UCR"
    return task_of(
        f"ucr:{set_name}",
        train,
        test,
        source=f"{set_name} of the {archive} archive; {_CITATION[multivariate]}",
        length=length,
        missing=missing,
    )
