"""Runs of the time when a folder's digest was of all options: found, resumed and verified.

`data/` holds two, written by the code of that time: one finished, one killed in its second
training.
"""

import json
import shutil
from pathlib import Path

import pytest

from robustprune.cli import main
from robustprune.minmax.resume import Keeper, Progress
from robustprune.pipeline import find_sparse_networks, prepare
from robustprune.run.config import Config, load_config, parse_config

DATA = Path(__file__).parent / "data"
FINISHED, KILLED = "old-b92b49b7", "killed-68070742"


def config_of(name: str) -> Config:
    """As somebody writes it today: only what differs from the defaults."""
    return parse_config(
        {
            "name": name,
            "seed": 3,
            "task": {"batch_size": 50},
            "model": {"options": {"widths": [2], "kernels": [3]}},
            "threat": {"eps": "1/64"},
            "inner": {"steps": 1},
            "natural": {"epochs": 1},
            "adversarial": {"epochs": 3},
            "search": {"epochs": 1},
            "finetune": {"modes": []},
            "evaluation": {"examples": 20, "steps": 1, "restarts": 1, "curve": False},
            "certify": {"method": "ibp", "examples": 2},
        }
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs with the old ones in it."""
    return Path(shutil.copytree(DATA, tmp_path / "runs"))


def contents(folder: Path, *kinds: str) -> dict[str, bytes]:
    files = [path for kind in kinds for path in folder.rglob(kind)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_finished_run_is_found_and_not_repeated(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / FINISHED / "seed3"
    assert load_config(folder / "config.yaml") == config_of("old")
    before = contents(
        folder, "config.yaml", "*.safetensors", "measure/*.json", "cert*", "cost.json"
    )
    metrics = json.loads((folder / "metrics.json").read_text())

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("trained or measured again")

    stages = ("fit.train", "searches.find_scratch_ticket", "measure.evaluate")
    for name in (*stages, "run_certificates.issue"):
        monkeypatch.setattr(f"robustprune.pipeline.{name}", forbidden)
    run = prepare(config_of("old"), out=runs, quiet=True)
    assert run.folder.path == folder
    found = find_sparse_networks(run)
    assert [method["title"] for method in found.pop("methods")] == ["RST"]  # new since then
    assert found == metrics
    assert contents(folder, *before) == before
    assert sorted(path.name for path in runs.iterdir()) == [KILLED, FINISHED]


def test_a_finished_run_is_verified(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(runs / FINISHED), "--seed", "0"]) == 0
    assert "checks passed" in capsys.readouterr().out


def test_a_killed_training_goes_on_where_it_stopped(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint knows the run by the name that the folder had."""
    folder = runs / KILLED / "seed3"
    natural = contents(folder / "models" / "natural", "*")
    run = prepare(config_of("killed"), out=runs, quiet=True)
    assert run.folder.path == folder
    epochs, after_epoch = [], Keeper.after_epoch

    def counted(self: Keeper, progress: Progress) -> None:
        epochs.append(progress.epoch)
        after_epoch(self, progress)

    monkeypatch.setattr(Keeper, "after_epoch", counted)
    find_sparse_networks(run)
    assert epochs == [3, 1]  # the last of the dense training, and the search
    assert contents(folder / "models" / "natural", "*") == natural
    trained = folder / "models" / "adversarial" / "history.jsonl"
    whole = DATA / FINISHED / "seed3" / "models" / "adversarial" / "history.jsonl"
    found, straight = (
        [json.loads(line) for line in path.read_text().splitlines()] for path in (trained, whole)
    )
    assert [record["epoch"] for record in found] == [0, 1, 2]
    for record, expected in zip(found, straight, strict=True):
        # the last epoch is trained on another machine perhaps
        assert record["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert record["lr"] == expected["lr"]


def test_other_seeds_lie_beside_the_old_one_and_other_configs_do_not(runs: Path) -> None:
    other = config_of("old").model_copy(update={"seed": 4})
    assert other.folder(runs) == runs / FINISHED / "seed4"
    tree = config_of("old").model_dump()
    tree["search"]["epochs"] = 2
    new = parse_config(tree)
    assert new.folder(runs) == runs / f"old-{new.digest()}" / "seed3"
    today = runs / f"old-{config_of('old').digest()}" / "seed3"
    today.mkdir(parents=True)  # a run that was made without the old one beside it
    assert config_of("old").folder(runs) == today
