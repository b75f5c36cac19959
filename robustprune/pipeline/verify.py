"""Verify the certificates of a run directory from its files and the data alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attacks.text import local_files_only
from robustprune.certify import Finding, read_certificates, verify_certificates
from robustprune.certify.certificate import FILE
from robustprune.models import build_model
from robustprune.pipeline.certify import certified_examples, manifest_of
from robustprune.pipeline.prepare import task_of
from robustprune.pipeline.text import sentences_of
from robustprune.run.checkpoint import load_tensors
from robustprune.run.config import Config, load_config
from robustprune.run.rundir import RunDir
from robustprune.sparsity import MaskSet
from robustprune.tasks import Task


@dataclass(frozen=True)
class _Rebuilt:
    """What a run directory holds, built again from its files."""

    folder: RunDir
    config: Config
    task: Task
    model: nn.Module
    masks: MaskSet | None
    headline: str


@local_files_only()  # a folder of somebody else's names what to load
def verify_run(
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    quiet: bool = True,
) -> list[Finding]:
    """Check certificates.jsonl of a run as a third party would: every claim is made again.

    The config, the weights, the masks and the data are read anew; the data come from the task's
    own source, not from the run. See `certify.verify_certificates` for what is checked.

    Args:
        run_dir: the folder with config.yaml and certificates.jsonl.
        data_dir: of the task's data sets, as in `tasks.load_task`.
        seed: of fresh noise and attacks; None draws one.

    Returns:
        findings; one alone, not ok, where a file can't be read or isn't what it should be.
    """
    try:
        rebuilt = _rebuild(RunDir(run_dir), data_dir, torch.device(device))
        stated, certificates = read_certificates(run_dir / FILE)
        expected = manifest_of(
            rebuilt.config, rebuilt.task, rebuilt.folder, rebuilt.headline, certificates
        )
    except (ValueError, OSError, RuntimeError) as error:
        return [Finding("files", False, " ".join(str(error).split()))]
    x, y = certified_examples(rebuilt.config, rebuilt.task)
    detail = f"all can be read; {FILE} is as its schema says"
    return [
        Finding("files", True, detail),
        *verify_certificates(
            stated,
            certificates,
            expected=expected,
            model=rebuilt.model,
            masks=rebuilt.masks,
            x=x.to(device),
            y=y.to(device),
            support=rebuilt.task.support,
            sentences=sentences_of(rebuilt.config, rebuilt.task, rebuilt.model),
            seed=seed,
            batch_size=rebuilt.config.evaluation.batch_size,
            quiet=quiet,
        ),
    ]


def _rebuild(folder: RunDir, data_dir: Path | None, device: torch.device) -> _Rebuilt:
    """Read everything but the certificates.

    Raises:
        ValueError, OSError, RuntimeError: a file is missing, damaged, or does not fit the others.
    """
    config = load_config(folder.path / "config.yaml")
    task = task_of(config, data_dir)
    model = build_model(config.model.name, task, options=config.model.options)
    model.load_state_dict(load_tensors(folder.path / "model.safetensors")[0])
    masks = folder.path / "masks.safetensors"
    metrics = folder.read_json("metrics.json")
    headline = metrics.get("headline") if isinstance(metrics, dict) else None
    if not isinstance(headline, str):
        raise ValueError(f"{folder.path / 'metrics.json'} names no headline model")
    return _Rebuilt(
        folder=folder,
        config=config,
        task=task,
        model=model.to(device).eval(),
        masks=MaskSet(load_tensors(masks)[0]) if masks.exists() else None,
        headline=headline,
    )
