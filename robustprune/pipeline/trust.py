"""Compare a network of a finished run with the dense one, beyond accuracy: `robustprune trust`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import ThreatModel
from attacks.text import local_files_only
from robustprune.measure import Trust, compare_trust, corruption_names, surrogates
from robustprune.pipeline.moved import check_same_data, with_data
from robustprune.pipeline.networks import build_network
from robustprune.pipeline.prepare import is_causal, task_of
from robustprune.pipeline.shared import Run
from robustprune.pipeline.text import encoder_of
from robustprune.pipeline.trust_more import check_more, classifier_sections, say_costs
from robustprune.pipeline.trust_page import Asked, check_names, write_page
from robustprune.pipeline.trust_protocol import (
    said_attacks,
    said_corruptions,
    said_members,
    said_outside,
)
from robustprune.pipeline.trust_retrained import Pair
from robustprune.report.collect import parse_metrics
from robustprune.report.trust import TrustPage
from robustprune.run.checkpoint import load_state, load_tensors
from robustprune.run.config import Config, load_config
from robustprune.run.files import read_bytes
from robustprune.run.naming import check_code_is_named
from robustprune.run.rundir import RunDir
from robustprune.tasks import Split, Task, dealt, holdout, text_names
from robustprune.tasks.adversarial_text import adversarial_sets
from robustprune.tasks.cifar_c import FOLDER, cifar10_c
from robustprune.tasks.folders import data_folder

#: the dense network that is compared with
AGAINST = "adversarial"


@local_files_only()  # the folder may come from somebody else and names what is loaded
def trust_run(
    run_dir: Path,
    asked: Asked,
    *,
    data_dir: Path | None = None,
    data: Path | None = None,
    device: torch.device | str = "cpu",
    network: str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure what compression changes in a run, and write trust.json, trust.html and trust.md.

    Args:
        run_dir: the directory of a finished run.
        data_dir: the folder of the task's data sets, as in `tasks.load_task`.
        data: where the run's own data are now; None for the place that its config names.
        network: the `package.module:function` of a run of your own network. Its module is
            imported, so no file alone can name it.

    Returns:
        The content of trust.json.

    Raises:
        ValueError, OSError: a file is missing or damaged, a name is none of the run's networks, or
            groups do not fit.
    """
    config = with_data(load_config(run_dir / "config.yaml"), data)
    check_code_is_named(config.model.name, [network])
    causal = is_causal(config)
    check_more(asked, config, causal=causal, text=config.task.name in text_names())
    if causal:
        if asked.groups is not None:
            raise ValueError("--groups has no effect on a causal language model; leave it out")
        # they need transformers
        from robustprune.pipeline.causal_run import prepare_causal
        from robustprune.pipeline.trust_causal import trust_language

        prepared = prepare_causal(
            config, out=run_dir, data_dir=data_dir, device=device, quiet=quiet, write=False
        )
        folder = RunDir(run_dir)
        return trust_language(replace(prepared, folder=folder), asked)
    task = task_of(config, data_dir)
    check_same_data(config, task, RunDir(run_dir))
    return trust_classifier(
        RunDir(run_dir),
        config,
        task,
        asked,
        data_dir=data_dir,
        device=torch.device(device),
        quiet=quiet,
    )


def trust_classifier(
    folder: RunDir,
    config: Config,
    task: Task,
    asked: Asked,
    *,
    data_dir: Path | None = None,
    device: torch.device,
    quiet: bool,
) -> dict[str, Any]:
    """Do what `trust_run` does for a run on a task of classification.

    data_dir: the folder that may hold the data set CIFAR-10-C, for runs on CIFAR-10.
    """
    metrics = parse_metrics(folder.read_json("metrics.json"))
    titles = {model.name: model.title for model in metrics.models}
    dense = AGAINST if asked.against is None else asked.against
    compressed = metrics.headline if asked.compressed is None else asked.compressed
    check_names(dense, compressed, list(titles))
    if not quiet:
        say_costs(folder, asked, (dense, compressed))
    x, y = (part.to(device) for part in task.test.batch(slice(asked.examples)))
    groups = None if asked.groups is None else groups_of(asked.groups, task)[: len(y)]
    text = task.train.present is not None
    threat = ThreatModel(config.threat.norm, config.threat.eps, task.bounds, task.support)
    run = Run(config, task, *_training(config, task), threat, device, folder, quiet)
    attacks = run.evaluation_attacks()
    corrupted = corrupted_inputs(task, x, y, data_dir)
    outside = None if text else surrogates(x, seed=config.seed, bounds=task.bounds)
    trained = run.training.batch(slice(len(y)))  # as many as test examples
    members = trained[0].to(device), trained[1].to(device)
    first, second = (_network(folder, config, task, one, device) for one in (dense, compressed))
    others = _others(config, task, asked.examples, data_dir, device) if text else {}
    found = compare_trust(
        first,
        second,
        x,
        y,
        attack=attacks,
        members=members,
        outside=outside,
        groups=groups,
        names=task.class_names,
        corruptions=corrupted,
        others=others,
        seed=config.seed,
        batch_size=config.evaluation.batch_size,
        quiet=quiet,
    )
    protocol = (
        ("Data", f"{task.name}: {task.source}"),
        ("Examples", f"the first {len(y):,} of {len(task.test):,} test examples"),
        ("Attacks", said_attacks(attacks, len(y))),
        ("Corruptions", said_corruptions(corrupted)),
        *(
            (name, f"the first {len(part[1]):,} examples of its test set")
            for name, part in others.items()
        ),
        ("Outside inputs", said_outside(outside)),
        ("Members", said_members(members[1], y, selected=config.selection.method != "none")),
    )
    pair = Pair((dense, compressed), (titles[dense], titles[compressed]), (first, second))
    page = TrustPage(
        name=config.name,
        subtitle=f"{task.name} · seed {config.seed}",
        dense=titles[dense],
        compressed=titles[compressed],
        changes=found.changes,
        disagreement=found.disagreement,
        calibrations={
            "clean examples": found.calibration,
            **({} if found.attacked is None else {"attacked examples": found.attacked}),
        },
        protocol=protocol,
        command=asked.command(folder.path, dense, compressed),
        sections=classifier_sections(run, pair, asked, x, y),
    )
    return write_page(folder, page, _about(found), dense, compressed)


def _about(found: Trust) -> dict[str, Any]:
    """Return the figures of a classifier besides its changes."""
    pairs = {"clean": found.calibration, "attacked": found.attacked}
    return {
        "n": found.n,
        "disagreement": {
            "churn": found.disagreement.churn.to_json(),
            "lost": found.disagreement.lost,
            "won": found.disagreement.won,
            "classes": [asdict(one) for one in found.disagreement.classes],
            "groups": [asdict(one) for one in found.disagreement.groups],
        },
        "reliability": {
            kind: {
                name: [
                    {"n": n, "confidence": sure, "accuracy": right}
                    for n, sure, right in zip(
                        one.counts.tolist(),
                        one.bin_confidence.tolist(),
                        one.bin_accuracy.tolist(),
                        strict=True,
                    )
                    if n
                ]
                for name, one in zip(("dense", "compressed"), pair, strict=True)
            }
            for kind, pair in pairs.items()
            if pair is not None
        },
    }


def corrupted_inputs(
    task: Task, x: Tensor, y: Tensor, data_dir: Path | None
) -> Sequence[str] | Mapping[str, Tensor]:
    """Return the names of the corruptions for these inputs; for CIFAR-10 the images of CIFAR-10-C
    where the data folder has them; () for sentences, and for images that are not in [0, 1].

    Raises:
        ValueError: as in `tasks.cifar_c.cifar10_c`.
    """
    official = data_folder(data_dir) / FOLDER
    if task.name == "cifar10" and official.is_dir():
        return cifar10_c(official, y)
    if task.train.present is not None:
        return ()
    if x.dim() == 4:
        unit = task.bounds in (None, (0.0, 1.0)) and 0 <= float(x.min()) <= float(x.max()) <= 1
        return corruption_names(x) if unit else ()
    return corruption_names(x)


def _network(
    folder: RunDir, config: Config, task: Task, name: str, device: torch.device
) -> nn.Module:
    weights = folder.path / "models" / name / "model.safetensors"
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random numbers
        model = build_network(config.model, task)
    load_state(model, load_tensors(weights)[0], weights)
    return model.to(device).eval()


def _training(config: Config, task: Task) -> tuple[Split, Split | None]:
    """Return the examples that the run trained on, and those that it held out."""
    if config.task.validation > 0:
        return holdout(task.train, config.task.validation, config.seed)
    return task.train, None


def _others(
    config: Config, task: Task, number: int, data_dir: Path | None, device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the adversarial test sets that the data folder has for a text task."""
    found = adversarial_sets(task.name, task.class_names, encoder_of(config), data_dir=data_dir)
    pairs = {name: dealt(part).batch(slice(number)) for name, part in found.items()}
    return {name: (x.to(device), y.to(device)) for name, (x, y) in pairs.items()}


def groups_of(path: Path, task: Task) -> Sequence[str]:
    """Return the groups of a task's test examples from a file in the order of the user's files.

    Raises:
        ValueError, OSError: as in `read_groups`.
    """
    groups = read_groups(path, len(task.test))
    return groups if task.places is None else [groups[i] for i in task.places.tolist()]


def read_groups(path: Path, number: int) -> Sequence[str]:
    """Return the groups of test examples from a text file, one a line.

    Raises:
        ValueError, OSError: it can't be read, is not UTF-8, has another number of lines, or a line
            is empty.
    """
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; give a file with one group a line") from error
    if len(lines) != number:
        raise ValueError(
            f"{path} has {len(lines)} lines for {number} test examples; give one group a line"
        )
    groups = [line.strip() for line in lines]
    if "" in groups:
        raise ValueError(f"{path}, line {groups.index('') + 1} is empty; give one group a line")
    return groups
