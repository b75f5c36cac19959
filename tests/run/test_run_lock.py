"""Two processes on one run directory."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustprune.run.lock import alone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such lock there")

HOLD = """
import sys
from pathlib import Path
from robustprune.run.lock import alone
with alone(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process, inside."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    return process


def test_the_second_process_is_told_which_is_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        message = rf"another process \({process.pid} on .*\) is at work in {tmp_path}; wait"
        with pytest.raises(ValueError, match=message), alone(tmp_path):
            raise AssertionError("two at once")
        process.communicate("")
    with alone(tmp_path):
        pass


def test_a_killed_process_holds_nobody(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    with alone(tmp_path):
        pass
    with alone(tmp_path):  # nor does one that has left
        pass
