"""Where data sets that are not packaged lie on disk."""

import os
from pathlib import Path


def default_data_dir() -> Path:
    """The folder in the environment variable ROBUSTPRUNE_DATA, else ~/.cache/robustprune."""
    named = os.environ.get("ROBUSTPRUNE_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "robustprune"


def data_folder(data_dir: Path | None) -> Path:
    """`data_dir`, or the default one where it is None.

    Raises:
        FileNotFoundError: `data_dir` is given and is no folder (the default one may be made later
            by a download).
    """
    if data_dir is None:
        return default_data_dir()
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data_dir {folder} is no folder; create it, name another one, or leave data_dir out "
            f"to use {default_data_dir()}"
        )
    return folder
