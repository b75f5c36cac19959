"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README + METHODS, flags=re.DOTALL)


def test_the_library_call_is_short() -> None:
    code = [line for line in EXAMPLES[0].splitlines() if line.strip()]
    assert len(code) < 15


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert "weights kept" in capsys.readouterr().out


def test_the_commands_name_files_that_are_there() -> None:
    for script in set(re.findall(r"python ((?:scripts|benchmarks)/\w+\.py)", README + METHODS)):
        assert (ROOT / script).exists()
    for name in set(re.findall(r"--config (\w+)", README)):
        assert (ROOT / "configs" / f"{name}.yaml").exists()
