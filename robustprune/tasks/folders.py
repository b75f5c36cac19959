"""Find the folder of the data sets that are not packaged."""

import os
from pathlib import Path


def default_data_dir() -> Path:
    """Return the folder in the environment variable ROBUSTPRUNE_DATA, or else
    ~/.cache/robustprune."""
    named = os.environ.get("ROBUSTPRUNE_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "robustprune"


def data_folder(data_dir: Path | None) -> Path:
    """Return `data_dir`, or the default folder where it is None.

    Raises:
        FileNotFoundError: `data_dir` is given but is no folder. (The default folder may be missing,
            because a download can make it later.)
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
