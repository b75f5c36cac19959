"""A task by name."""

from pathlib import Path

from robustprune.run.suggest import did_you_mean
from robustprune.tasks.arrays import npz_task
from robustprune.tasks.images import cifar10, fashion_mnist, mnist
from robustprune.tasks.task import Task
from robustprune.tasks.timeseries import packaged_ucr, ucr_from_folder

_PACKAGED = {"ecg200": "ECG200", "sony_aibo_1": "SonyAIBORobotSurface1"}
_IMAGES = {"cifar10": cifar10, "fashion_mnist": fashion_mnist, "mnist": mnist}
_UCR = "ucr:<Name>"


def task_names() -> list[str]:
    """The names that `load_task` knows; 'ucr:<Name>' stands for any set of the UCR archive."""
    return sorted([*_PACKAGED, *_IMAGES, "npz", _UCR])


def load_task(
    name: str,
    *,
    data_dir: Path | None = None,
    path: Path | None = None,
    bounds: tuple[float, float] | None = None,
    download: bool = True,
) -> Task:
    """Load a data set into memory, checked.

    Args:
        name: ecg200 and sony_aibo_1 (packaged, need no files), mnist, fashion_mnist, cifar10,
            ucr:<Name> for a set of the UCR archive, or npz for an own file.
        data_dir: folder of the data sets (see `images` and `timeseries` for the layout); default
            the environment variable ROBUSTPRUNE_DATA, else ~/.cache/robustprune.
        path: the .npz file; only for npz (see `arrays` for its keys and layout).
        bounds: the range of valid inputs; only for npz.
        download: fetch missing image sets through torchvision.

    Raises:
        ValueError: an unknown name (with the nearest), an argument the task does not take, or
            malformed data.
        FileNotFoundError: a missing folder or file, or a download that failed.
    """
    if name == "npz":
        if path is None:
            raise ValueError("task 'npz' needs path, the .npz file to load; give path=...")
        return npz_task(Path(path), bounds=bounds)
    for argument, value in (("path", path), ("bounds", bounds)):
        if value is not None:
            raise ValueError(
                f"task '{name}' takes no {argument}, got {value}; leave it out, or use task 'npz'"
            )
    if name in _PACKAGED:
        return packaged_ucr(name, _PACKAGED[name])
    if name in _IMAGES:
        return _IMAGES[name](data_dir=data_dir, download=download)
    if name.startswith("ucr:"):
        return ucr_from_folder(name.removeprefix("ucr:"), data_dir=data_dir)
    raise ValueError(
        f"unknown task '{name}'{did_you_mean(name, task_names())}; "
        f"use one of {', '.join(task_names())}"
    )
