"""Several ranks on one run: the same masks on each, the same results as one process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ranks import command, launch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attacks import FGSM, PGD, ThreatModel
from robustprune.certify import certify_synonyms
from robustprune.minmax import (
    Adversarial,
    Checkpoint,
    Constraint,
    Natural,
    OptimizerSpec,
    Validation,
    set_masks,
    train,
)
from robustprune.run.checkpoint import load_tensors
from robustprune.run.runtime import (
    agreed,
    choose_device,
    leave,
    merged,
    own_batches,
    own_part,
    own_random_numbers,
    rank,
    ranks,
)
from robustprune.search import train_sparse
from robustprune.sparsity import MaskSet, apply_masks, full_masks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs forks")
THREAT = ThreatModel("linf", 0.1)

CONFIG: dict[str, Any] = {
    "name": "ranks",
    "task": {"name": "ecg200", "batch_size": 25, "validation": 0.2},
    "model": {"name": "mlp", "options": {"hidden": [12]}},  # no batch norm: one process, exactly
    "inner": {"attack": "fgsm"},  # no random start
    "natural": {"epochs": 2},
    "adversarial": {"epochs": 2},
    "search": {"methods": ["rst", "admm", "lottery", "snip"], "density": [0.3], "epochs": 3},
    "admm": {"epochs": 2, "every": 1},
    "lottery": {"epochs": 2, "rounds": 2, "controls": ["random"]},
    "finetune": {"modes": ["inherit"], "epochs": 2},
    "evaluation": {"steps": 3, "restarts": 2, "batch_size": 30},
    "certify": {"method": "crown", "examples": 40, "sigma": 0.5, "n0": 20, "n": 200},
}


def network(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Linear(8, 2))


def batches(sizes: tuple[int, ...] = (8, 8, 7, 1)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(sizes), 4, generator=generator)
    return list(zip(x.split(sizes), (x[:, 0] > 0).long().split(sizes), strict=True))


def trained(norm: bool, random_start: bool, epochs: int = 3, state: Path | None = None) -> Any:
    """Weights and history of a small training, in whatever process this is."""
    model = network(norm)
    torch.manual_seed(1)
    attack = PGD(THREAT, steps=2) if random_start else FGSM(THREAT)
    history = train(
        model,
        batches((8, 8, 6) if norm else (8, 8, 7, 1)),
        Adversarial(attack),
        optimizer=OptimizerSpec(lr=0.1, schedule="constant"),
        epochs=epochs,
        validation=Validation(loader=batches((5, 4)), attack=attack),
        checkpoint=Checkpoint(state, seconds=0) if state else None,
        quiet=True,
    )
    return model.state_dict(), history


def keep(folder: str, *arguments: Any) -> None:
    """`trained` as one rank of several; each keeps what it has."""
    choose_device("cpu")
    weights, history = trained(*arguments)
    content = {name: value.tolist() for name, value in weights.items()}
    figures = [[r.loss, r.clean, r.robust, r.val_clean, r.val_robust] for r in history]
    random = torch.rand(2).tolist()
    path = Path(folder) / f"{rank()}.json"
    path.write_text(json.dumps([content, figures, random]))
    leave()


def kept(folder: Path) -> list[Any]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    launch(keep, (str(tmp_path), False, False), tmp_path / "log", 2)
    first, second = kept(tmp_path)
    assert first == second
    weights, history = trained(False, False)
    for name, value in weights.items():
        assert torch.allclose(torch.tensor(first[0][name]), value, atol=1e-6), name
    for record, (loss, clean, robust, *checked) in zip(history, first[1], strict=True):
        assert loss == pytest.approx(record.loss, rel=1e-5)
        assert clean == pytest.approx(record.clean)
        assert robust == pytest.approx(record.robust)
        assert checked == [record.val_clean, record.val_robust]


def test_ranks_stay_together_with_batch_norm_and_random_starts(tmp_path: Path) -> None:
    launch(keep, (str(tmp_path), True, True), tmp_path / "log", 2)
    first, second = kept(tmp_path)
    assert first == second


def test_a_training_on_ranks_goes_on_bit_for_bit(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    state = broken / "s.safetensors"
    launch(keep, (str(straight), True, True, 4), tmp_path / "log", 2)
    launch(keep, (str(broken), True, True, 2, state), tmp_path / "log", 2)
    launch(keep, (str(broken), True, True, 4, state), tmp_path / "log", 2)
    assert kept(broken) == kept(straight)


class Grows(Constraint):
    """Each step moves every mask to the largest dense gradients."""

    def bind(self, model: nn.Module, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.optimizer = optimizer

    def wants_dense_gradients(self, step: int) -> bool:
        return True

    def take_dense_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        self.largest = {name: g.abs() > g.abs().median() for name, g in gradients.items()}

    def after_step(self, model: nn.Module, step: int) -> None:
        set_masks(model, MaskSet(self.largest), self.optimizer)


def trained_on_tokens() -> dict[str, Tensor]:
    """Labels a token, of which each rank has another number; masks that follow the gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7))
    apply_masks(model, full_masks(model))
    ids = torch.randint(7, (24, 5))
    following = ids.roll(-1, 1)
    following[torch.rand(24, 5) < torch.linspace(0, 1, 24)[:, None]] = -100
    following[8:12] = -100  # of one rank none counts
    train(
        model, list(zip(ids.split(8), following.split(8), strict=True)), Natural(),
        optimizer=OptimizerSpec(lr=0.1), epochs=2, constraint=Grows(), quiet=True,
    )  # fmt: skip
    return model.state_dict()


def keep_tokens(folder: str) -> None:
    choose_device("cpu")
    save_file(trained_on_tokens(), Path(folder) / f"{rank()}.safetensors")
    leave()


def test_two_ranks_train_on_tokens_and_move_masks_as_one_process_does(tmp_path: Path) -> None:
    launch(keep_tokens, (str(tmp_path),), tmp_path / "log", 2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for name, value in trained_on_tokens().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)


def sparse_masks() -> dict[str, Tensor]:
    """The masks and weights of sparse trainings, in whatever process this is."""
    found = {}
    for method in ("rigl", "set", "flyingbird_plus"):
        ticket = train_sparse(
            network(), batches((8, 8, 7)), density=0.4, method=method, attack=FGSM(THREAT),
            epochs=4, every=2, optimizer=OptimizerSpec(lr=0.1), quiet=True,
            validation=Validation(loader=batches((5, 4)), attack=FGSM(THREAT)),
        )  # fmt: skip
        found |= {f"{method}.mask.{name}": mask for name, mask in ticket.masks.items()}
        found |= {f"{method}.{name}": w.clone() for name, w in ticket.model.state_dict().items()}
    return found


def keep_sparse(folder: str) -> None:
    choose_device("cpu")
    save_file(sparse_masks(), Path(folder) / f"{rank()}.safetensors")
    leave()


def test_two_ranks_move_their_masks_as_one_process_does(tmp_path: Path) -> None:
    """The dense gradient is that of the whole batch, and random growth is the same on each rank."""
    launch(keep_sparse, (str(tmp_path),), tmp_path / "log", 2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for name, value in sparse_masks().items():
        assert torch.equal(first[name], second[name]), name
        if value.dtype == torch.bool:
            assert torch.equal(first[name], value), name
        else:
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


def check_collectives(folder: str) -> None:
    choose_device("cpu")
    here = rank()
    assert ranks() == 2
    assert agreed(here == 0)
    assert not agreed(here == 1)
    rows = own_batches(7, 3)
    assert rows == [[slice(0, 3), slice(6, 7)], [slice(3, 6)]][here]
    part = torch.zeros(7)
    for row in rows:
        part[row] = torch.arange(7.0)[row]
    part[1] = [torch.inf, 0.0][here]
    assert merged(part).tolist() == [0, torch.inf, 2, 3, 4, 5, 6]
    x, y, share = own_part(torch.arange(5.0), torch.arange(5))
    assert (y.tolist(), share) == [([0, 1, 2], 0.6), ([3, 4], 0.4)][here]
    assert own_part(x[:1], y[:1])[2] == [1.0, 0.0][here]
    before = torch.rand(())
    with own_random_numbers():
        inside = torch.zeros(2)
        inside[here] = torch.rand(())
        torch.rand(here)  # one draws more than the other
    other = merged(inside)
    assert other[0] != other[1]
    after = torch.zeros(2)
    after[here] = torch.rand(())
    after = merged(after)
    assert after[0] == after[1] != before
    leave()


def test_what_ranks_tell_each_other(tmp_path: Path) -> None:
    launch(check_collectives, (str(tmp_path),), tmp_path / "log", 2)


TEXTS = ["good film", "a bad bad film", "film", "good bad", "so so"]
SYNONYMS = {"good": ("fine", "bad"), "bad": ("poor", "good"), "film": ("movie",)}


def smooth_synonyms(folder: str) -> None:
    choose_device("cpu")
    asked = 0

    def classify(texts: Sequence[str]) -> Tensor:
        nonlocal asked
        asked += len(texts)
        bad = torch.tensor([float(t.count("bad") + t.count("poor")) for t in texts])
        return torch.stack((bad, 1 - bad), 1)

    result = certify_synonyms(classify, TEXTS, lambda w: SYNONYMS.get(w, ()), n0=10, n=90)
    columns = {"hits": result.hits, "class": result.prediction, "R": result.substitutions}
    told = {name: column.tolist() for name, column in columns.items()}
    path = Path(folder) / f"{ranks()}-{rank()}.json"
    path.write_text(json.dumps({"told": told, "asked": asked}), encoding="utf-8")
    leave()


def test_ranks_share_out_synonym_smoothing(tmp_path: Path) -> None:
    for size in (1, 2):
        launch(smooth_synonyms, (str(tmp_path),), tmp_path / "log", size)
    alone, *both = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("1-0", "2-0", "2-1"))
    assert [rank["told"] for rank in both] == [alone["told"]] * 2
    assert alone["asked"] == 500
    assert [rank["asked"] for rank in both] == [300, 200]


def files(out: Path) -> Path:
    (folder,) = out.glob("*/seed0")
    return folder


def test_a_run_on_two_ranks(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    arguments = ["run", str(config), "--quiet", "--device", "cpu", "--checkpoint-seconds", "0"]
    for size in (1, 2):
        log = tmp_path / f"log{size}"
        launch(command, ([*arguments, "--out", str(tmp_path / str(size))],), log, size)
        said = log.read_text().splitlines() if log.exists() else []
        # a network that answers without a gradient is warned of once, by one rank
        assert all(line.startswith("warning: zero-gradients: ") for line in said)
        metrics = json.loads((files(tmp_path / str(size)) / "metrics.json").read_text())
        assert len(said) <= len(metrics["models"])
    one, two = files(tmp_path / "1"), files(tmp_path / "2")
    names = {p.relative_to(one).as_posix() for p in one.rglob("*") if p.is_file()}
    assert names == {p.relative_to(two).as_posix() for p in two.rglob("*") if p.is_file()}
    for name in sorted(names):
        if name.endswith("masks.safetensors"):
            masks, others = load_tensors(one / name)[0], load_tensors(two / name)[0]
            assert all(torch.equal(masks[key], others[key]) for key in masks), name
    metrics, others = (json.loads((f / "metrics.json").read_text()) for f in (one, two))
    for model, other in zip(metrics["models"], others["models"], strict=True):
        assert model["clean"]["value"] == pytest.approx(other["clean"]["value"], abs=0.011)
        for attack, figure in model["robust"].items():
            assert figure["value"] == pytest.approx(other["robust"][attack]["value"], abs=0.011)
    assert json.loads((two / "env.json").read_text())["ranks"] == 2


def test_measures_and_certificates_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    """Of the same finished models: one process trains, then its measures are made anew by two."""
    config = tmp_path / "c.yaml"
    section = {**CONFIG["search"], "methods": ["rst"]}
    config.write_text(yaml.safe_dump({**CONFIG, "search": section}))
    arguments = ["run", str(config), "--quiet", "--device", "cpu", "--out", str(tmp_path / "out")]
    launch(command, (arguments,), tmp_path / "log", 1)
    folder = files(tmp_path / "out")
    measured = ["metrics.json", "per_example.csv", "certificates.jsonl"]
    before = {name: (folder / name).read_bytes() for name in measured}
    for path in [*(folder / name for name in measured), *(folder / "measure").iterdir()]:
        path.unlink()
    launch(command, (arguments,), tmp_path / "log", 2)
    assert {name: (folder / name).read_bytes() for name in measured} == before
    assert before["certificates.jsonl"].count(b"\n") == 81


def test_a_mistake_is_told_in_one_line(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "find_rst.py"
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(script), "--set", "search.epoch=3"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert launched.returncode == 1
    # the launcher stops the other rank as soon as one has ended, maybe before it has said so
    assert re.search(r"^error( \(rank 1\))?: .*did you mean 'epochs'\?", launched.stderr, re.M)
    assert "Traceback" not in launched.stderr.partition("elastic")[0]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_launchers_run_a_script(tmp_path: Path, launcher: str) -> None:
    script = Path(__file__).parents[2] / "scripts" / "find_rst.py"
    ways = {
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        "accelerate": [
            *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", "0"),
        ],
    }
    quick = ["model.name=mlp", "natural.epochs=1", "adversarial.epochs=1", "search.epochs=1"]
    quick += ["finetune.modes=[]", "evaluation.steps=2", "evaluation.restarts=1"]
    subprocess.run(
        [
            *(sys.executable, *ways[launcher], str(script), "--device", "cpu", "--quiet"),
            *("--out", str(tmp_path / "runs"), "--set", "model.options={}", *quick),
        ],
        check=True,
        cwd=tmp_path,
    )
    assert json.loads((files(tmp_path / "runs") / "env.json").read_text())["ranks"] == 2
