"""The configs that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import robustprune

_FOLDER = Path(str(resources.files(robustprune))) / "configs"


def config_names() -> list[str]:
    """Names of the packaged configs."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def config_path(name: str) -> Path:
    """The packaged config of that name, or the file that `name` is the path of."""
    if name in config_names():
        return _FOLDER / f"{name}.yaml"
    return Path(name)
