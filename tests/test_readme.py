"""What the README shows; its examples run in test_docs.py."""

import re
from pathlib import Path

from benchmarks.badges import badge, facts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_call_is_short() -> None:
    first = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    assert len([line for line in first.splitlines() if line.strip()]) < 15


def test_the_commands_name_configs_that_are_there() -> None:
    for name in set(re.findall(r"--config (\w+)", README)):
        assert (ROOT / "configs" / f"{name}.yaml").exists()


def test_the_badges_say_what_pyproject_says() -> None:
    said = facts()
    for label, value in said.items():
        drawn = (ROOT / "docs" / "pictures" / f"badge-{label}.svg").read_text("utf-8")
        assert drawn == badge(label, value)
    assert set(re.findall(r"pictures/badge-(\w+)\.svg", README)) == set(said)
