"""A run whose every text is markup: the report shows it and runs none of it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustprune.report import write_report
from robustprune.report.collect import parse_metrics

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts of a JSON value are."""
    if isinstance(value, str):
        yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(part, (*path, key))


def marked(metrics: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The metrics with markup in every text that the reader does not refuse, and how many."""
    number = 0
    for path in texts(metrics):
        changed = copy.deepcopy(metrics)
        node: Any = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] += EVIL
        try:
            parse_metrics(changed)
        except ValueError:  # names of folders, of norms, of other parts of the file
            continue
        metrics, number = changed, number + 1
    return metrics, number


def test_no_text_of_a_run_becomes_a_tag(run_dir: Path, metrics: dict[str, Any]) -> None:
    hostile, number = marked(metrics)
    assert number > 10
    (run_dir / "metrics.json").write_text(json.dumps(hostile))
    env = json.loads((run_dir / "env.json").read_text())
    env = {key + EVIL: f"{value}{EVIL}" for key, value in env.items()}
    (run_dir / "env.json").write_text(json.dumps(env))
    pages = [path.read_text(encoding="utf-8") for path in write_report(run_dir)]
    for page in pages:
        assert "<script" not in page
        assert "<img src=x" not in page
    assert pages[0].count("&lt;script&gt;alert(1)") > 10
    assert '" onerror' not in pages[0]
