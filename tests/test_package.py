"""`import robustprune` is fast, knows its public names, and imports them when they are used."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import robustprune

STUB = ast.parse(Path(robustprune.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
PLACES = [
    (node.module, name.name)
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for name in node.names
]


def test_the_import_loads_no_torch() -> None:
    code = "import sys, robustprune; dir(robustprune); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_runs_of_classifiers_need_no_transformers() -> None:
    code = "import sys, robustprune.pipeline, robustprune.compare, robustprune.cli"
    said = subprocess.run(
        [sys.executable, "-c", f"{code}; print('transformers' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "False\n"


@pytest.mark.parametrize(("module", "name"), PLACES, ids=[name for _, name in PLACES])
def test_a_name_is_what_its_package_has(module: str, name: str) -> None:
    assert getattr(robustprune, name) is getattr(import_module(module), name)


def test_all_names_are_listed_and_no_others_are_there() -> None:
    assert set(robustprune.__all__) == {"__version__"} | {name for _, name in PLACES}
    assert {*robustprune.__all__, "search", "layerwise", "lm"} <= set(dir(robustprune))
    for name in dir(robustprune):
        assert hasattr(robustprune, name)
    with pytest.raises(AttributeError, match="has no attribute 'find_scratch_tickets'"):
        _ = robustprune.find_scratch_tickets  # type: ignore[attr-defined]


def test_a_package_needs_no_import_of_its_own() -> None:
    code = "import robustprune; print(robustprune.search.find_scratch_ticket.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "find_scratch_ticket\n", done.stderr
