"""The run directory. Its files are written under a temporary name and then renamed.

    runs/<name>-<digest>/seed<k>/
        config.yaml  env.json  log.jsonl  lock
        origin.json                    digests of the user's own network and data
        models/<name>/model.safetensors masks.safetensors history.jsonl     one folder a model
        models/<name>/selection.safetensors             if its examples were selected
        models/<name>/certificates.jsonl                if the config names it in certify.also
        model.safetensors  masks.safetensors                                the headline model
        measure/<name>.json  per_example.csv  metrics.json
        text/<name>.<attack>.json                        results of attacks on the text itself
        report.html  report.md
        trust.html  trust.md  trust.json    trust/                what `robustprune trust` trained

A stage is done when its file or folder exists; the same command continues after the last one.
Nothing in the directory may be a symbolic link, so that nothing outside is written or removed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from robustprune.run.atomic import flush_folder, replacing, unwritten, write_atomically
from robustprune.run.checkpoint import Damaged, load_tensors, save_tensors
from robustprune.run.config import Config, load_config
from robustprune.run.files import no_links, read_bytes
from robustprune.run.lock import alone
from robustprune.run.runtime import agreed, is_first, wait
from robustprune.run.terminal import shown

#: the ends of the names of folders with a model that is half written, or still trained
_NEW, _PARTIAL = ".new", ".partial"

#: software on which results may depend and that may change before a run is resumed
_VERSIONS = ("robustprune", "python", "torch", "numpy")

#: the examples that a training selected; written beside its checkpoints, then kept with its model
SELECTION = "selection.safetensors"
#: one test example before and after an attack, for the first picture of the report
PICTURED = "pictured.safetensors"


@dataclass(frozen=True)
class RunDir:
    """The directory of one run."""

    path: Path

    def alone(self) -> AbstractContextManager[None]:
        """Keep other processes out, see `run.lock`. Of several ranks, the first holds the lock."""
        return alone(self.path) if is_first() else nullcontext()

    def has(self, name: str) -> bool:
        """Return whether this file or folder exists; all ranks get the same answer."""
        return agreed((self.path / name).exists())

    def write_json(self, name: str, content: Any) -> None:
        path = self.path / name
        if is_first():
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(content, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        path = self.path / name
        content = read_bytes(path)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({shown(error)}); delete it to start over"
            ) from error

    def log(self, event: str, **figures: Any) -> None:
        """Append one line to log.jsonl."""
        if not is_first():
            return
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **figures}
        path = self.path / "log.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritten(path, error) from error

    # -- trained models ------------------------------------------------------------------------

    def has_model(self, name: str) -> bool:
        return self.has(f"models/{name}")

    def checkpoint(self, name: str) -> Path:
        """Return the path for the state of a training that is not finished."""
        folder = self._models() / f".{name}{_PARTIAL}"
        if is_first():
            folder.mkdir(parents=True, exist_ok=True)
        return folder / "state.safetensors"

    def save_model(
        self,
        name: str,
        state: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None,
        history: Sequence[Any],
    ) -> None:
        """Write a finished model's folder, whole or not at all, and then remove its checkpoints."""
        self.save_folder(
            name, lambda folder: save_tensors(folder / "model.safetensors", state), masks, history
        )

    def save_folder(
        self,
        name: str,
        write: Callable[[Path], object],
        masks: Mapping[str, Tensor] | None,
        history: Sequence[Any],
    ) -> None:
        """Do the same for weights that `write` writes into the folder it is called with."""
        if is_first():
            models = self._models()
            folder = models / f".{name}{_NEW}"
            _remove(folder)  # a process that was killed here may have left it
            folder.mkdir(parents=True)
            write(folder)
            if masks is not None:
                save_tensors(folder / "masks.safetensors", masks)
            lines = "".join(json.dumps(asdict(record)) + "\n" for record in history)
            write_atomically(folder / "history.jsonl", lines)
            self._copy(models / f".{name}{_PARTIAL}" / SELECTION, folder / SELECTION)
            os.replace(folder, models / name)
            flush_folder(models)
            self._forget_finished()
        wait()

    def _forget_finished(self) -> None:
        """Remove the checkpoints of finished models, and models that are half written."""
        models = self._models()
        for folder in models.glob(f".*{_NEW}"):
            _remove(folder)
        for folder in models.glob(f".*{_PARTIAL}"):
            if (models / folder.name[1:].removesuffix(_PARTIAL)).is_dir():
                _remove(folder)

    def _models(self) -> Path:
        """Return the folder of the models, in which folders may be removed.

        Raises:
            ValueError: it is a link, which could lead to somebody else's folders.
        """
        models = self.path / "models"
        no_links(models, within=self.path)
        return models

    def load_model(self, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Return the state and the masks of a finished model."""
        folder = self.path / "models" / name
        masks = folder / "masks.safetensors"
        try:
            return (
                load_tensors(folder / "model.safetensors")[0],
                load_tensors(masks)[0] if masks.exists() else None,
            )
        except (Damaged, FileNotFoundError) as error:
            reason = str(error).partition("; delete")[0]
            raise ValueError(f"{reason}; delete {folder} to have it made again") from error

    def load_masks(self, name: str) -> dict[str, Tensor]:
        """Return the masks of a finished model."""
        folder = self.path / "models" / name
        try:
            return load_tensors(folder / "masks.safetensors")[0]
        except (Damaged, FileNotFoundError) as error:
            reason = str(error).partition("; delete")[0]
            raise ValueError(f"{reason}; delete {folder} to have it made again") from error

    def publish(self, name: str) -> None:
        """Copy the weights and masks of the headline model to the top of the run directory."""
        for file in ("model.safetensors", "masks.safetensors"):
            if is_first():
                self._copy(self.path / "models" / name / file, self.path / file)
        wait()

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if source.exists():
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)


def open_run(
    config: Config, root: Path, env: Mapping[str, Any], origin: Mapping[str, str] | None = None
) -> RunDir:
    """Return the directory of this config and seed, which is made if it does not exist.

    Args:
        origin: digests of what the config only names, such as the "network" and the "data" of the
            user. Only the same ones may continue a run.

    Raises:
        ValueError: it contains another config (edited by hand) or a symbolic link, or another
            process uses it; or it was begun with another origin.
        OSError: it can't be written to.
    """
    path = config.folder(root)
    if is_first():
        _open(path, config, env, origin or {})
    wait()
    return RunDir(path)


def _open(path: Path, config: Config, env: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {path}")
    except OSError as error:
        raise OSError(
            f"cannot write the run to {path}: {error.strerror or error}; choose another --out"
        ) from error
    run = RunDir(path)
    for entry in path.iterdir():
        no_links(entry, within=path)
    with run.alone():
        _describe(path / "config.yaml", config)
        _check_origin(run, origin)
        run.write_json("env.json", {**env, **_begun(path / "env.json", env)})
        run._forget_finished()


def _describe(path: Path, config: Config) -> None:
    """Write the config unless the file has the same content, because certificates store its
    digest."""
    if path.exists():
        try:
            same = load_config(path) == config
        except ValueError:
            same = False
        if not same:
            raise ValueError(
                f"{path} does not belong to this run; delete {path.parent} to start over"
            )
    else:
        write_atomically(path, config.to_yaml())


def _check_origin(run: RunDir, origin: Mapping[str, str]) -> None:
    """Write the digests of a new run, and compare those of one that goes on.

    Raises:
        ValueError: one of them is another one.
    """
    path = run.path / "origin.json"
    if not path.exists():
        if origin:  # runs of older versions have no such file
            run.write_json(path.name, dict(origin))
        return
    before = run.read_json(path.name)
    before = before if isinstance(before, dict) else {}
    changed = [name for name, digest in origin.items() if before.get(name, digest) != digest]
    if changed:
        raise ValueError(
            f"since the run in {run.path} began, its {' and '.join(changed)} changed under the "
            "same name; give another --out, or delete the folder to start over"
        )


def _begun(path: Path, env: Mapping[str, Any]) -> dict[str, str]:
    """Return the software with which the run was begun, if it differs from the present one."""
    try:
        before = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):  # the run is new, or the file is damaged
        return {}
    if not isinstance(before, dict):
        return {}
    others = [
        f"{name} {shown(before[name], 40)}"
        for name in _VERSIONS
        if name in before and before[name] != env.get(name)
    ]
    begun = before.get("begun") or ", ".join(others)
    return {"begun": shown(begun)} if begun else {}


def _remove(path: Path) -> None:
    """Remove a folder with its content; of a link, remove only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
