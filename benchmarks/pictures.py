"""Make the pictures of README and docs from a finished run: `python -m benchmarks.pictures RUN`.

Of a run of rst_ecg200, the top of the report is photographed by a headless Chromium, and plots are
copied as SVG. Of `robustprune run rst_certified_ecg200 --set certify.also=[adversarial]`, only its
own plots are copied.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from robustprune.run.config import load_config

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
#: the plots of a report that the documentation shows
PLOTS = {
    "rst_ecg200": ("accuracy-vs-eps-near", "layer-density-rst", "training-robust"),
    "rst_certified_ecg200": (
        "certified-crown-ibp", "certified-crown-ibp-adversarial", "example-rst",
    ),
}  # fmt: skip


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
    parser.add_argument("run", type=Path, help="a finished run of one of these configs")
    parser.add_argument("--out", type=Path, default=PICTURES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config = load_config(options.run / "config.yaml").name
    if config not in PLOTS:
        sys.exit(f"error: {options.run} is a run of {config}; take one of {', '.join(PLOTS)}")
    if config == "rst_ecg200":
        photograph(options.run / "report.html", options.out / "report.png", width=1100, height=985)
    for name in PLOTS[config]:
        shutil.copyfile(options.run / "plots" / f"{name}.svg", options.out / f"{name}.svg")


if __name__ == "__main__":
    main()
