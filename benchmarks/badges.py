"""The badges of README, drawn from pyproject.toml, so that each says what is true.

    python -m benchmarks.badges

They are files of the repository: no page asks a server for them.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"

BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" role="img" \
aria-label="{label}: {value}">
<title>{label}: {value}</title>
<rect width="{left}" height="20" rx="3" fill="#555"/>
<rect x="{left}" width="{right}" height="20" rx="3" fill="#1f6feb"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{x_label}" y="14">{label}</text>
<text x="{x_value}" y="14">{value}</text>
</g>
</svg>
"""


def facts() -> dict[str, str]:
    """What the badges say, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pythons = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    (torch,) = (line for line in project["dependencies"] if re.match(r"torch\b", line))
    return {
        "python": f"{pythons[0]}–{pythons[-1]}",
        "torch": torch.removeprefix("torch").replace(">=", "≥ "),
        "license": project["license"],
        "types": "checked" if "Typing :: Typed" in project["classifiers"] else "none",
    }


def badge(label: str, value: str) -> str:
    """One badge as SVG; a letter is about 6.5 pixels wide."""
    left, right = (round(6.5 * len(text)) + 12 for text in (label, value))
    return BADGE.format(
        label=escape(label), value=escape(value), left=left, right=right, whole=left + right,
        x_label=left / 2, x_value=left + right / 2,
    )  # fmt: skip


def main() -> None:
    for label, value in facts().items():
        (FOLDER / f"badge-{label}.svg").write_text(badge(label, value), "utf-8")


if __name__ == "__main__":
    main()
