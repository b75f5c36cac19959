"""Whether two versions of the code give the same results, bit for bit.

Run the same commands with both versions, on one machine and with as many threads, then compare:

    OMP_NUM_THREADS=1 python scripts/find_rst.py --out before/find_rst       # with the old code
    OMP_NUM_THREADS=1 python scripts/find_rst.py --out after/find_rst        # with the new code
    python tests/same_results.py before after

Every mask and every weight must be equal, and every figure in the old metrics.json must stand in
the new one. A figure that only the new one has is no difference. Exit code 1 comes with the names
of what differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file


def runs(folder: Path) -> dict[str, Path]:
    """Run folders by the name of their config and their seed; the digest between may change."""
    found = {}
    for metrics in sorted(folder.rglob("metrics.json")):
        seed = metrics.parent
        config, _, _ = seed.parent.name.rpartition("-")
        found[f"{seed.parent.parent.relative_to(folder)}/{config}/{seed.name}"] = seed
    return found


def tensor_differences(old: Path, new: Path) -> Iterator[str]:
    """Tensors that are not equal in two files of one name."""
    if not new.exists():
        yield f"{new} is missing"
        return
    before, after = load_file(old), load_file(new)
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{new}: {name} is in one of the two alone"
        elif before[name].dtype != after[name].dtype or not torch.equal(before[name], after[name]):
            yield f"{new}: {name} differs"


def figure_differences(old: object, new: object, where: str) -> Iterator[str]:
    """Figures of the old record that the new one has not, or has otherwise."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key in new:
                yield from figure_differences(value, new[key], f"{where}.{key}")
            else:
                yield f"{where}.{key} is missing"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from figure_differences(a, b, f"{where}[{index}]")
    elif isinstance(old, float) or isinstance(new, float):
        if old != new:
            yield f"{where}: {old!r} became {new!r}"
    elif old != new:
        yield f"{where}: {str(old)[:100]!r} became {str(new)[:100]!r}"


def differences(before: Path, after: Path) -> Iterator[str]:
    """All differences between two folders of runs."""
    old, new = runs(before), runs(after)
    if not old:
        yield f"{before} holds no finished run"
    for name, folder in old.items():
        if name not in new:
            yield f"{after} has no run {name}"
            continue
        for file in sorted(folder.rglob("*.safetensors")):
            if "checkpoint" not in file.name:
                yield from tensor_differences(file, new[name] / file.relative_to(folder))
        first, second = (
            json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            for run in (folder, new[name])
        )
        yield from figure_differences(first, second, f"{name} metrics")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    found = list(differences(Path(sys.argv[1]), Path(sys.argv[2])))
    print("\n".join(found) or "the same, bit for bit")
    sys.exit(1 if found else 0)
