"""Find the configs that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import robustprune

_FOLDER = Path(str(resources.files(robustprune))) / "configs"


def config_names() -> list[str]:
    """Return the names of the packaged configs."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def config_path(name: str) -> Path:
    """Return the path of the packaged config `name`, or else `name` as a path."""
    if name in config_names():
        return _FOLDER / f"{name}.yaml"
    return Path(name)
