"""Verify the certificates of a run directory from its files and the data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attacks.text import local_files_only
from robustprune.certify import (
    CheckResult,
    asked_for,
    file_digest,
    read_certificates,
    unchecked,
    verify_certificates,
)
from robustprune.certify.certificate import FILE
from robustprune.certify.claims import LIMIT
from robustprune.pipeline.moved import with_data
from robustprune.pipeline.networks import build_network, origin_of
from robustprune.pipeline.own import SETTINGS
from robustprune.pipeline.plan import check_certified, headline_names
from robustprune.pipeline.prepare import task_of
from robustprune.pipeline.run_certificates import MASKS, WEIGHTS, certified_examples, manifest_of
from robustprune.pipeline.text import sentences_of
from robustprune.run.checkpoint import load_state, load_tensors
from robustprune.run.config import Config, load_config
from robustprune.run.files import no_links, plain_file
from robustprune.run.naming import check_code_is_named
from robustprune.run.rundir import RunDir
from robustprune.run.terminal import shown
from robustprune.sparsity import MaskSet
from robustprune.tasks import Task


@dataclass(frozen=True)
class _Run:
    """What a run directory says of all its certificates."""

    folder: RunDir
    config: Config
    task: Task
    headline: str
    origin: Mapping[str, Any]
    data: Path | None  # where the user says that the data are


@local_files_only()  # the folder may come from somebody else and names what is loaded
def verify_run(
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    data: Path | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    limit: int = LIMIT,
    network: str | None = None,
    quiet: bool = True,
) -> list[CheckResult]:
    """Check the certificates of a run as a third party would: every claim is computed again.

    The config, the weights, the masks and the data are read again. The data come from the task's
    own source and not from the run, or from the file that its config names, which a finding then
    says. `certify.verify_certificates` describes the checks. They are made of certificates.jsonl,
    and of the file of each other network that the config names in certify.also.

    Args:
        run_dir: the folder with config.yaml and certificates.jsonl.
        data_dir: the folder of the task's data sets, as in `tasks.load_task`.
        data: where the run's own data are now; None for the place that its config names.
        seed: the seed of fresh noise and attacks; None draws one.
        limit: the largest number of fresh samples for one smoothed claim.
        network: the `package.module:function` of a run of your own network, which must be the one
            that the run's config names. Its module is imported, so no file alone can name it.
        quiet: whether progress bars are hidden.

    Returns:
        The findings, including what was not checked; a single finding that is not ok if a file
        of the run can't be read or is not valid.

    Raises:
        ValueError, OSError: the data can't be loaded, or the run has a network of the user that
            `network` does not name. Then nothing is known of the certificates.
    """
    try:
        config = load_config(run_dir / "config.yaml")
    except (ValueError, OSError) as error:
        return [CheckResult("files", False, " ".join(str(error).split()))]
    check_code_is_named(config.model.name, [network])
    task = task_of(with_data(config, data), data_dir)
    try:
        check_certified(config)
        run = _read_run(RunDir(run_dir), config, task, data)
    except (ValueError, OSError) as error:
        return [CheckResult("files", False, " ".join(str(error).split()))]
    options: dict[str, Any] = {"seed": seed, "limit": limit, "quiet": quiet}
    first, *claims = _about_a_network(run, run.headline, device, published=True, **options)
    if not first.ok:
        return [first]
    findings = [first, *_about_the_headline(run), *_about_the_origin(run), *claims]
    for name in config.certify.also:
        others = _about_a_network(run, name, device, published=False, **options)
        findings += [replace(finding, name=f"{name}: {finding.name}") for finding in others]
    return [*findings, *_left_alone(run)]


def _about_a_network(
    run: _Run, name: str, device: torch.device | str, *, published: bool, **options: Any
) -> list[CheckResult]:
    """Compute every claim about one network again.

    Args:
        published: whether it is the headline model.
        options: seed, limit and quiet, as in `verify_certificates`.

    Returns:
        First whether its files can be read. If not, there is nothing else.
    """
    config, task, folder = run.config, run.task, run.folder
    files = folder.path if published else folder.path / "models" / name
    try:
        model, masks = _rebuild(run, files)
        stated, certificates = read_certificates(files / FILE)
        expected = manifest_of(config, task, folder, name, certificates, published=published)
    except (ValueError, OSError, RuntimeError) as error:
        return [CheckResult("files", False, " ".join(str(error).split()))]
    model = model.to(device)
    x, y = certified_examples(config, task)
    return [
        CheckResult("files", True, f"all can be read; {FILE} is as its schema says"),
        *verify_certificates(
            stated,
            certificates,
            expected=expected,
            asked=asked_for(config.certify, expected.eps, config.seed),
            model=model,
            masks=masks,
            x=x.to(device),
            y=y.to(device),
            support=task.support,
            sentences=sentences_of(config, task, model),
            batch_size=config.evaluation.batch_size,
            **options,
        ),
    ]


def is_own(path: Path) -> bool:
    """Return whether a folder has certificates of `robustprune certify`, and not of a run."""
    return (path / SETTINGS).exists() and not (path / "config.yaml").exists()


def run_with_certificates(path: Path) -> Path:
    """Return the run that a path means: the path itself, or the only run inside it.

    Raises:
        ValueError: it has no certificates, or there are several runs in it; the message says what
            to do.
        FileNotFoundError: there is no such folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no run directory {path}")
    if (path / FILE).exists() or (path / "config.yaml").exists():
        _check_kind(path)
        return path
    # runs/<name>-<digest>/seed<k>
    found = sorted(
        file.parent
        for pattern in ("*", "*/*")
        for file in path.glob(f"{pattern}/{FILE}")
        if (file.parent / "config.yaml").exists()
    )
    if not found:
        raise ValueError(
            f"{path} is no run directory, and no run with certificates lies in it; give the folder "
            f"that holds config.yaml and {FILE}"
        )
    if len(found) > 1:
        named = ", ".join(str(run) for run in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(f"{path} holds {len(found)} runs; give one of them: {named}{more}")
    return found[0]


def _check_kind(path: Path) -> None:
    if not (path / FILE).exists():
        raise ValueError(
            f"{path} is a run without certificates (causal language models have none); have "
            "them made by the same command with --set certify.method=crown-ibp, or of a network "
            "that reads sentences with --set certify.sigma=0.05, say"
        )
    if not (path / "config.yaml").exists():
        raise ValueError(
            f"{path} has certificates, but neither config.yaml nor {SETTINGS}, which say how they "
            "were made"
        )


def _about_the_headline(run: _Run) -> list[CheckResult]:
    """Check that the certified network is the one that the config makes the headline model."""
    name, possible = run.headline, headline_names(run.config)
    if name not in possible:
        detail = f"metrics.json names {name}; the config makes it {' or '.join(possible)}"
        return [CheckResult("headline", False, detail)]
    path, stored = run.folder.path, run.folder.path / "models" / name
    if not stored.is_dir():
        detail = f"{name}, as the config says; the run's models/{name} is not here to compare"
        return [CheckResult("headline", True, detail)]
    other = [file for file in (WEIGHTS, MASKS) if not _same(path / file, stored / file)]
    detail = f"{name}, as the config says, and the same as models/{name}"
    if other:
        detail = f"{' and '.join(other)} differ from those in models/{name}"
    return [CheckResult("headline", not other, detail)]


def _about_the_origin(run: _Run) -> list[CheckResult]:
    """Check that the user's network and data are those with which the run was begun."""
    found = origin_of(run.config.model, run.task, own_data=run.config.task.path is not None)
    results = []
    for name, digest in found.items():
        stated = run.origin.get(name)
        if stated is None:  # a run of an older version
            continue
        ok = stated == digest
        said = "as when the run began" if ok else f"the run began with {shown(stated, 40)}"
        results.append(CheckResult(f"origin, {name}", ok, f"{digest}, {said}"))
    return results


def _same(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes, or neither exists."""
    if not (one.exists() and other.exists()):
        return one.exists() == other.exists()
    alike = plain_file(one).stat().st_size == plain_file(other).stat().st_size
    return alike and file_digest(one) == file_digest(other)


def _left_alone(run: _Run) -> list[CheckResult]:
    """List what the folder contains or says and what was not checked."""
    left = [unchecked("metrics.json", "its figures; only the headline's name is read from it")]
    file, total = run.config.task.path, len(run.task.test)
    if file is not None and run.data is None:
        detail = (
            f"they were read from {file}, which the folder's config names; check yourself that it "
            "is the data set that you mean"
        )
        left.append(unchecked("where the data are from", detail))
    others = total - min(total, run.config.certify.examples)
    if others:
        detail = f"{others:,} of {total:,}, of which the file says nothing"
        left.append(unchecked("other test examples", detail))
    return left


def _read_run(folder: RunDir, config: Config, task: Task, data: Path | None) -> _Run:
    """Read what the folder says of the whole run.

    Raises:
        ValueError, OSError: a file is missing or damaged.
    """
    metrics = folder.read_json("metrics.json")
    has_origin = (folder.path / "origin.json").exists()
    origin = folder.read_json("origin.json") if has_origin else {}
    headline = metrics.get("headline") if isinstance(metrics, dict) else None
    if not isinstance(headline, str):
        raise ValueError(f"{folder.path / 'metrics.json'} names no headline model")
    return _Run(folder, config, task, headline, origin if isinstance(origin, dict) else {}, data)


def _rebuild(run: _Run, files: Path) -> tuple[nn.Module, MaskSet | None]:
    """Build a network from the weights and masks in a folder of the run.

    Raises:
        ValueError, OSError, RuntimeError: a file is missing, damaged, or does not fit the others.
    """
    if files != run.folder.path:
        no_links(files, within=run.folder.path)
    model = build_network(run.config.model, run.task)
    weights, masks = files / WEIGHTS, files / MASKS
    load_state(model, load_tensors(weights)[0], weights)
    return model.eval(), MaskSet(load_tensors(masks)[0]) if masks.exists() else None
