"""The networks and forms of `benchmarks.pruned_quantised`: how each is made, judged and stored."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from attacks import PGD, Attack, Model, ThreatModel, Transfer
from benchmarks.layerwise_lm import FISHER, MODEL, texts
from benchmarks.layerwise_methods import method
from benchmarks.layerwise_networks import CASES, data, dense
from benchmarks.lm_robust import attack as text_attack
from benchmarks.lm_robust import pairs
from benchmarks.pruned_quantised_table import NETWORKS
from benchmarks.stored_bytes import stored_bytes
from robustprune.deploy import export_int8, onnx_network, round_weights, straight_through
from robustprune.layerwise import prune_layerwise
from robustprune.lm import (
    AdversarialText,
    EmbeddedText,
    adversarial_perplexity,
    perplexity,
    random_windows,
)
from robustprune.measure import robust_accuracy_quantised
from robustprune.minmax import Adversarial, OptimizerSpec, Rslad, StepResult, tally
from robustprune.minmax.distil import answers_of, softened
from robustprune.pipeline.prepare import planned_run
from robustprune.pipeline.shared import Run
from robustprune.run.checkpoint import load_state, load_tensors
from robustprune.run.config import load_config
from robustprune.search import Ticket, finetune_ticket

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Judge:
    """How the classifiers of one data set are judged.

    Attributes:
        x, y: the test examples.
        calibration: training examples that set the ranges of activations.
        file: whether int8 is a file of ONNX Runtime; otherwise it is rounded in torch.
    """

    x: Tensor
    y: Tensor
    calibration: Tensor
    threat: ThreatModel
    file: bool
    steps: int
    restarts: int
    queries: int

    def cell(self, model: nn.Module, form: str, folder: Path) -> dict[str, object]:
        """Judge one form of a network by three kinds of attacks, and store it."""
        more: dict[str, object] = {}
        bits = {"float32": None, "int8": 8, "4-bit weights": 4}[form]
        judged: Model = model if bits is None else round_weights(model, bits)
        through = judged
        if form == "int8":
            judged = through = straight_through(model, self.calibration)
            if self.file:
                files = export_int8(model, self.calibration, folder / "network.onnx")
                judged, more = onnx_network(files.int8_path), {"onnx": files.int8_bytes}
        assert isinstance(through, nn.Module)
        found = robust_accuracy_quantised(
            model, judged, self.x, self.y, self.threat, straight_through=through, steps=self.steps,
            step_size=self.threat.eps / 4, restarts=self.restarts, queries=self.queries,
            batch_size=100,
        )  # fmt: skip
        return {
            "clean": _bits(found.clean), "robust": _bits(found.worst), "broken": found.broken,
            "constant": found.constant,
            "bytes": stored_bytes(model, folder / "weights.safetensors", bits=bits), **more,
        }  # fmt: skip


def _bits(right: Tensor) -> str:
    return "".join("01"[int(one)] for one in right)


def small(name: str, options: argparse.Namespace) -> tuple[Judge, Callable[[int], Iterator]]:
    """ECG200 or MNIST: the networks of `benchmarks.layerwise`, 10% of the weights kept."""
    case = CASES[name]
    task = data(case.task, options.data_dir)
    images, epochs, queries, restarts = (None, 10, 300, 3) if name == "ecg200" else (200, 1, 200, 2)
    x, y = task.test.batch(slice(images))
    calibration, _ = task.train.batch(slice(case.calibration if images is None else 200))
    judge = Judge(x, y, calibration, case.threat, True, case.judge, restarts, queries)

    def made(seed: int) -> Iterator[tuple[str, Make]]:
        def searched(what: str) -> nn.Module:
            whole = dense(name, seed, options.dense, options.data_dir)
            torch.manual_seed(seed)
            return method(what)(case, task, whole, 0.1, seed).model.eval()

        yield "dense", lambda: dense(name, seed, options.dense, options.data_dir)
        for title, what in zip(
            NETWORKS[1:], ("ours", f"ours+{epochs}", f"ours+{epochs} rslad"), strict=True
        ):
            yield title, partial(searched, what)

    return judge, made


def sentences(options: argparse.Namespace) -> tuple[Judge, Callable[[int], Iterator]]:
    """MiniLM of a finished run of plm_minilm_sst2, half of the weights kept."""
    config = load_config(options.sentences / "config.yaml")
    run = planned_run(config, out=options.out, data_dir=options.data_dir, quiet=True)
    x, y = run.task.test.batch(slice(160))
    calibration, _ = run.training.batch(slice(64))
    judge = Judge(x, y, calibration, run.threat, False, 5, 1, 30)

    def whole() -> nn.Module:
        model = run.fresh_model()
        path = options.sentences / "models" / "adversarial" / "model.safetensors"
        load_state(model, load_tensors(path)[0], path)
        return model.eval()

    def pruned() -> Ticket:
        torch.manual_seed(0)
        attacked = {"attack": run.inner_attack(), "clean": 0.0}
        return prune_layerwise(
            whole(), run.loader(), density=0.5, solver="admm", allocate="layer", dense=("last",),
            **attacked,
        )  # fmt: skip

    def made(seed: int) -> Iterator[tuple[str, Make]]:
        yield "dense", whole
        yield "pruned", lambda: pruned().model.eval()
        yield "pruned, fine-tuned", lambda: _tuned(run, pruned(), None)
        yield "pruned, distilled", lambda: _tuned(run, pruned(), whole())

    return judge, made


def _tuned(run: Run, ticket: Ticket, teacher: nn.Module | None) -> nn.Module:
    attack = run.inner_attack()
    assert isinstance(attack, PGD)
    objective = Adversarial(attack) if teacher is None else Rslad(teacher, attack)
    spec = OptimizerSpec(**run.config.finetune.optimizer.model_dump())
    tuned = finetune_ticket(ticket, run.loader(), objective, epochs=1, optimizer=spec, quiet=True)
    return tuned.model.eval()


@dataclass(frozen=True)
class TaughtText:
    """(1 − w) KL(T(e) ‖ S(e + δ)) + w KL(T(e) ‖ S(e)) of each next token, with the δ that raises
    the student's loss: the loss of RSLAD (Zi et al. 2021, Eq. 4) for texts."""

    teacher: EmbeddedText
    attack: Attack
    clean: float = 1 / 6
    moves_inputs = True
    class_labels = False

    def __call__(self, model: Any, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        moved = self.attack(model, x, y)
        answers_of(self.teacher, model, x[:1])  # refuses a student that teaches itself
        with torch.no_grad():
            wanted, _ = self.teacher.next_tokens(x)

        def apart(found: Tensor) -> Tensor:
            return softened(wanted.flatten(0, 1), found.flatten(0, 1), 1.0).mean()

        (said, labels), (plain, _) = model.next_tokens(moved), model.next_tokens(x)
        loss = (1 - self.clean) * apart(said) + self.clean * apart(plain)
        return StepResult(loss, *tally(said, labels), True)


class Stories:
    """stories260K, half of the weights kept, on the text of `benchmarks.layerwise_lm`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.data = texts(options.data_dir)
        self.whole: Any = AutoModelForCausalLM.from_pretrained(MODEL).eval()
        self.clean_ids = self.data.evaluation[:64, :256]
        self.ids = self.clean_ids[:32]

    def made(self, seed: int) -> Iterator[tuple[str, Make]]:
        yield "dense", lambda: self.whole
        yield "pruned", lambda: self._pruned().model.network.eval()
        for title in NETWORKS[2:]:
            yield title, partial(self._tuned, taught=title.endswith("distilled"))

    def _pruned(self) -> Any:
        text = EmbeddedText(self.whole)
        ids = random_windows(self.data.calibration, 256, 128, bos=1, seed=0)
        return prune_layerwise(
            text, pairs(ids, text.width, 32), density=0.5, allocate="layer", dense=("last",),
            **{**FISHER, "outputs": "alike"},
        )  # fmt: skip

    def _tuned(self, *, taught: bool) -> nn.Module:
        ticket, attack = self._pruned(), text_attack(0.5, 3)
        drawn = random_windows(self.data.calibration, 128, 80 * 8, bos=1, seed=1000)
        spec = OptimizerSpec(name="adam", lr=2e-3, weight_decay=0.0, schedule="cosine")
        objective = (
            TaughtText(EmbeddedText(self.whole), attack) if taught else AdversarialText(attack)
        )
        loader = pairs(drawn, ticket.model.width, 8)
        tuned: Any = finetune_ticket(
            ticket, loader, objective, epochs=1, optimizer=spec, quiet=True
        )
        return tuned.model.network.eval()

    def cell(self, model: nn.Module, form: str, folder: Path) -> dict[str, object]:
        """Perplexity, clean and as the worst of two attacks at ε = 0.5 on each window."""
        bits = {"float32": None, "int8": 8, "4-bit weights": 4}[form]
        judged = model if bits is None else round_weights(model, bits)
        direct = adversarial_perplexity(judged, self.ids, text_attack(0.5, 10), bos=1).losses
        if bits is not None:
            moved = Transfer(text_attack(0.5, 10), EmbeddedText(model))
            other = adversarial_perplexity(judged, self.ids, moved, bos=1).losses
            direct = torch.maximum(direct, other)
        clean = perplexity(judged, self.clean_ids).losses
        return {
            "clean": [round(value, 6) for value in clean.tolist()],
            "robust": [round(value, 6) for value in direct.tolist()],
            "bytes": stored_bytes(model, folder / "weights.safetensors", bits=bits),
        }


def of(name: str, options: argparse.Namespace) -> tuple[Any, Callable[[int], Iterator]]:
    """What judges a data set, and what makes its networks from a seed."""
    if name == "stories":
        stories = Stories(options)
        return stories, stories.made
    return sentences(options) if name == "sst2" else small(name, options)


def judged(judge: Any, model: nn.Module, form: str) -> Mapping[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        found: Mapping[str, object] = judge.cell(model, form, Path(folder))
    return found
