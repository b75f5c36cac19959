"""What a long benchmark keeps, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from robustprune.run.checkpoint import load_tensors, save_tensors
from robustprune.sparsity import MaskSet


def note(out: Path, row: Mapping[str, object]) -> None:
    """Append one line to results.jsonl."""
    with open(out / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def rows(out: Path) -> list[dict]:
    """The lines of results.jsonl, none where there is none."""
    path = out / "results.jsonl"
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    )


def save_masked(path: Path, model: nn.Module, masks: MaskSet) -> None:
    """A network and its masks in one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"model/{name}": value for name, value in model.state_dict().items()}
    save_tensors(path, state | {f"mask/{name}": mask for name, mask in masks.items()})


def load_masked(path: Path) -> tuple[dict[str, Tensor], MaskSet]:
    """State dict and masks of such a file."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "mask": {}}
    for key, value in load_tensors(path)[0].items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    return parts["model"], MaskSet(parts["mask"])
