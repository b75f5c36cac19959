"""Make the pictures of README and docs from a finished run: `python -m benchmarks.pictures RUN`.

The top of the report is photographed by a headless Chromium; the plots are copied as SVG.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
#: the plots of a report that the documentation shows
PLOTS = ("accuracy-vs-eps-near", "layer-density-rst", "training-robust")


def photograph(report: Path, target: Path, *, width: int, height: int) -> None:
    """Write a picture of the top of a page.

    Raises:
        SystemExit: there is no Chromium.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no Chromium is installed, which makes the picture")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                f"--screenshot={target.resolve()}",
                report.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run of rst_ecg200")
    parser.add_argument("--out", type=Path, default=PICTURES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    photograph(options.run / "report.html", options.out / "report.png", width=1100, height=985)
    for name in PLOTS:
        shutil.copyfile(options.run / "plots" / f"{name}.svg", options.out / f"{name}.svg")


if __name__ == "__main__":
    main()
