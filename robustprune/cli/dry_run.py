"""`--dry-run` shows the whole config, and how much time and memory the run will need."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.cli.shared import answer
from robustprune.run.config import Config
from robustprune.run.progress import duration

if TYPE_CHECKING:
    import torch

    from robustprune.pipeline.estimate import Estimate


def dry_run(config: Config, options: argparse.Namespace) -> int:
    """Measure a few steps of the run and print an estimate from them. Nothing is written."""
    from robustprune.pipeline.estimate import estimate
    from robustprune.pipeline.prepare import is_causal, planned_run
    from robustprune.run.runtime import choose_device

    device = choose_device(options.device)
    if is_causal(config):
        return _dry_causal(config, options, device)
    run = planned_run(
        config,
        out=options.out,
        data_dir=options.data_dir,
        device=device,
        quiet=True,
        network=config.model.name,
    )
    found = estimate(run)
    content: dict[str, Any] = {
        **_about(config, run.folder.path, device),
        "seconds": found.seconds,
        **asdict(found),
    }
    answer(options, content, lambda: _show(config, content, found))
    return 0


def _dry_causal(config: Config, options: argparse.Namespace, device: torch.device) -> int:
    """Do the same for a causal language model, whose layers are solved without training."""
    from robustprune.models.language import transformers_library

    transformers_library()  # says in one line that it is missing
    from robustprune.pipeline.causal_measure import seconds_of_measuring
    from robustprune.pipeline.causal_run import prepare_causal, searches_of

    run = prepare_causal(
        config,
        out=options.out,
        data_dir=options.data_dir,
        device=device,
        quiet=True,
        write=False,
    )
    named = [f"{method.title_of(config)}, {level.title}" for method, level in searches_of(config)]
    content = {
        **_about(config, run.folder.path, device),
        "networks": named,
        "seconds_of_measuring": seconds_of_measuring(run, 1 + len(named)),
    }

    def show() -> None:
        print(config.to_yaml())
        print(f"# run: {content['run']} ({content['state']}), on {content['device']}")
        print(f"# {len(named)} networks: {'; '.join(named)}")
        print(f"# perplexity of all: about {duration(content['seconds_of_measuring'])}, and the")
        print("# search of each network a few times as long as its perplexity")

    answer(options, content, show)
    return 0


def _about(config: Config, folder: Path, device: torch.device) -> dict[str, Any]:
    state = "new"
    if folder.exists():
        state = "finished" if (folder / "report.html").exists() else "begun"
    return {
        "run": str(folder),
        "state": state,
        "device": str(device),
        "config": config.model_dump(mode="json"),
    }


def _show(config: Config, content: dict[str, Any], found: Estimate) -> None:
    print(config.to_yaml())
    print(f"# run: {content['run']} ({content['state']}), on {content['device']}")
    natural, robust = found.step
    print(
        f"# network: {found.parameters:,} parameters; a step takes {1e3 * natural:.1f} ms on clean "
        f"and {1e3 * robust:.1f} ms on attacked examples"
    )
    wide = max(len(stage.name) for stage in found.stages)
    for stage in found.stages:
        passing = (
            "measuring", "attacking text", "certifying, smoothing", "certifying, synonyms",
        )  # fmt: skip
        unit = "passes" if stage.name in passing else "steps"
        unit = "examples" if stage.name.startswith("certifying") and unit == "steps" else unit
        print(f"#   {stage.name:<{wide}}  {stage.steps:>13,} {unit:<8} {duration(stage.seconds)}")
    training = duration(found.training_seconds)
    rest = duration(found.seconds - found.training_seconds)
    print(f"# time: about {training} of training, at most {rest} of measuring and certifying")
    if found.host_bytes is not None:
        print(f"# memory: {found.host_bytes / 2**30:.2f} GiB, data and torch included")
    if found.device_bytes is not None:
        print(f"# memory on {content['device']}: {found.device_bytes / 2**30:.2f} GiB")
