"""The page in a real browser, where one is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from robustprune.report import write_report
from robustprune.run.checkpoint import save_tensors
from robustprune.run.rundir import PICTURED

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium installed"),
]


def _open(page: Path, profile: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_browser_builds_the_table_and_the_plots(written: tuple[Path, Path], tmp_path: Path) -> None:
    html, _ = written
    dom = _open(html, tmp_path / "profile", "--dump-dom")
    assert dom.count("<tr") == 6
    assert "77.0<small>[67.5, 84.8]</small>" in dom
    assert dom.count("<svg") == 6


def test_browser_paints_the_example_without_complaint(run_dir: Path, tmp_path: Path) -> None:
    tensors = {"x": torch.rand(3, 4, 4)}
    for name in ("x_adv", "logits", "logits_adv"):
        tensors[f"{name}/rst"] = tensors["x"] if name == "x_adv" else torch.rand(2)
    meta = {"index": 0, "label": 0, "attack": "pgd20"}
    save_tensors(run_dir / PICTURED, tensors, meta)
    html, _ = write_report(run_dir)
    log = tmp_path / "log"
    options = ("--enable-logging", f"--log-file={log}", "--v=0", "--dump-dom")
    dom = _open(html, tmp_path / "profile", *options)
    assert dom.index('id="first"') < dom.index('id="summary"')
    assert dom.count("data:image/png") == 3
    assert "Content Security Policy" not in log.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("size", [(1400, 900), (900, 900), (400, 900)])
def test_browser_paints_it(run_dir: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    html, _ = write_report(run_dir)
    picture = tmp_path / "page.png"
    window = f"--window-size={size[0]},{size[1]}"
    _open(html, tmp_path / "profile", window, f"--screenshot={picture}")
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == size
    assert picture.stat().st_size > 20_000  # a blank page of this size is a few kilobytes


def test_page_is_not_wider_than_a_phone(run_dir: Path, tmp_path: Path) -> None:
    write_report(run_dir)
    frame = run_dir / "phone.html"
    frame.write_text(
        '<iframe src="report.html" width="390" height="800"></iframe><output></output><script>'
        "onload = () => { const page = document.querySelector('iframe').contentDocument"
        ".documentElement; document.querySelector('output').textContent ="
        " `width ${page.scrollWidth}`; }</script>",
        encoding="utf-8",
    )
    dom = _open(frame, tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom")
    # The frame's own scroll bar takes some of the 390.
    width = int(dom.split("<output>width ")[1].split("<")[0])
    assert 300 < width <= 390
