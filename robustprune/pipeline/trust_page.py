"""What `robustprune trust` is asked for, and the files that it writes, for every kind of run."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robustprune.report.trust import TrustPage, write_trust
from robustprune.run.rundir import RunDir
from robustprune.run.settings import SHADOWS, TrustName, TrustSection
from robustprune.run.terminal import shown

#: the file with all figures, beside trust.html and trust.md
FILE = "trust.json"
EXAMPLES = 1000


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    Attributes:
        compressed: the name of the network; None for the headline one.
        against: the name of the dense network; None for the adversarial one (of a causal language
            model, the dense one).
        examples: the largest number of test examples, or of windows.
        groups: a file with the group of each test example, one a line; None for no groups.
        more: the measures that are asked for by name.
        shadows: the number of shadow networks of lira.
        sets: two texts for set-difference of a causal language model.
    """

    compressed: str | None = None
    against: str | None = None
    examples: int = EXAMPLES
    groups: Path | None = None
    more: tuple[TrustName, ...] = ()
    shadows: int = SHADOWS
    sets: tuple[Path, Path] | None = None

    @staticmethod
    def of(section: TrustSection) -> Asked:
        """Return what a config asks for."""
        return Asked(
            examples=section.examples or EXAMPLES,
            more=section.more,
            shadows=section.shadows,
            sets=section.sets,
        )

    def command(self, folder: Path, dense: str, compressed: str) -> str:
        """Return the command that makes the page again."""
        words = ["robustprune", "trust", f"{folder.parent.name}/{folder.name}"]
        words += ["--network", compressed, "--against", dense, "--examples", str(self.examples)]
        words += ["--groups", self.groups.name] if self.groups else []
        words += ["--with", *self.more] if self.more else []
        words += ["--shadows", str(self.shadows)] if "lira" in self.more else []
        words += ["--sets", *(path.name for path in self.sets)] if self.sets else []
        return shlex.join(words)


def check_names(dense: str, compressed: str, names: list[str]) -> None:
    """Refuse names that are none of the run's networks.

    Raises:
        ValueError: a name is unknown or leads out of the folder, or both are the same.
    """
    for name in (dense, compressed):
        if name not in names or Path(name).name != name:
            raise ValueError(
                f"the run has no network {shown(name)}; choose one of "
                f"{', '.join(map(shown, names))}"
            )
    if dense == compressed:
        raise ValueError(f"{shown(dense)} is compared with itself; name another network of the run")


def write_page(
    folder: RunDir, page: TrustPage, more: dict[str, Any], dense: str, compressed: str
) -> dict[str, Any]:
    """Write trust.json, trust.html and trust.md, and return the content of trust.json."""
    content = {
        "schema": 1,
        "kind": "trust",
        "run": page.name,
        "dense": dense,
        "compressed": compressed,
        "changes": [
            {**asdict(one), "difference": one.difference, "verdict": one.verdict}
            for one in page.changes
        ],
        **more,
        **({"more": {one.key: one.to_json() for one in page.sections}} if page.sections else {}),
        "protocol": dict(page.protocol),
    }
    folder.write_json(FILE, content)
    write_trust(folder.path, page)
    folder.log("trust", dense=dense, compressed=compressed)
    return content
