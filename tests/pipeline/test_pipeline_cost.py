"""The cost stage on networks that it can't take apart, or that fail: the record says what is
missing, and the run goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.pipeline import cost
from robustprune.report.collect import _costs
from robustprune.report.cost_table import cost_table
from robustprune.sparsity import full_masks


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write_json(self, name: str, content: Any) -> None:
        (self.path / name).write_text(json.dumps(content), encoding="utf-8")

    def log(self, event: str, **fields: Any) -> None:
        assert event == "cost"


def measured(
    model: nn.Module, dense: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the stage writes of a network and its dense form."""
    torch.manual_seed(0)
    monkeypatch.setattr(cost, "test_examples", lambda run: (torch.randn(6, 5, 4), None))
    run: Any = SimpleNamespace(
        folder=Folder(folder),
        task=SimpleNamespace(train=SimpleNamespace(present=None)),
        config=SimpleNamespace(deploy=SimpleNamespace(int8=False)),
    )
    headline: Any = SimpleNamespace(
        model=model, masks=full_masks(model), title="a ticket", name="ticket"
    )
    cost.measure_cost(run, SimpleNamespace(model=dense), headline)  # type: ignore[arg-type]
    content: dict[str, Any] = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    return content


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor], recurrent: bool = False) -> None:
        super().__init__()
        self.inner = nn.LSTM(4, 4, batch_first=True) if recurrent else nn.Linear(4, 4)
        self.head, self.between = nn.Linear(20, 2), between

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return self.head(self.between(h[0] if isinstance(h, tuple) else h).flatten(1))


def fails(_: Tensor) -> Tensor:
    raise TypeError("operator.add() takes no keyword arguments\nand more lines")


def test_a_network_that_is_measured_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(lambda h: torch.add(h, h, alpha=2))
    content = measured(model, model, tmp_path, monkeypatch)
    assert content["note"] == ""
    assert [row["name"] for row in content["rows"]][:4] == [
        "dense",
        "masks applied on the fly",
        "masks baked in",
        "slim",
    ]


def test_what_cannot_be_made_or_counted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Net(lambda h: F.bilinear(h, h, torch.ones(4, 4, 4)), recurrent=True)
    content = measured(model, model, tmp_path, monkeypatch)
    assert "No slim form: layer 'inner' is a LSTM, which can't be deployed" in content["note"]
    assert "The MACs leave out the products of the forward of Net." in content["note"]
    assert {row["macs"] for row in content["rows"]} == {5 * 4 * (16 + 16) + 20 * 2}
    table = cost_table(_costs(tmp_path / "cost.json"))
    assert table is not None
    assert table.rows[0].macs == "at least 680"


def test_an_error_in_making_a_form_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise TypeError("unhashable type: 'list'")

    monkeypatch.setattr(cost, "slim", broken)
    content = measured(Net(torch.relu), Net(torch.relu), tmp_path, monkeypatch)
    assert content["note"] == "Not measured: slim form (TypeError: unhashable type: 'list')."
    assert len(content["rows"]) == 3


def test_a_network_that_fails_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = measured(Net(fails), Net(torch.relu), tmp_path, monkeypatch)
    assert [row["name"] for row in content["rows"]] == ["dense"]
    said = "(TypeError: operator.add() takes no keyword arguments)"
    assert f"Not measured: masks baked in {said}." in content["note"]


def test_without_the_dense_network_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = measured(Net(torch.relu), Net(fails), tmp_path, monkeypatch)
    assert content["rows"] == []
    assert content["note"].startswith("Not measured: dense (TypeError: ")
    table = cost_table(_costs(tmp_path / "cost.json"))
    assert table is not None
    assert (table.rows, table.note) == ((), content["note"])


def test_a_full_disk_is_no_matter_of_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError("cannot write slim.safetensors: no space left on the device")

    monkeypatch.setattr(cost, "save_slim", full)
    with pytest.raises(OSError, match="no space left"):
        measured(Net(torch.relu), Net(torch.relu), tmp_path, monkeypatch)
