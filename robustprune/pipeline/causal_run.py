"""A run on a causal language model: what its stages share, and what is checked before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.lm import random_windows, token_loss, windows
from robustprune.models.causal import STORIES, CausalModel, causal_digest, load_causal
from robustprune.models.options import checked_options
from robustprune.packing import words
from robustprune.pipeline.method import Method
from robustprune.pipeline.methods import ROWS, check_methods, methods_of
from robustprune.pipeline.trust_more import check_more
from robustprune.pipeline.trust_page import Asked
from robustprune.run.config import Config
from robustprune.run.content import tensor_digest
from robustprune.run.fingerprint import digest_of
from robustprune.run.rundir import RunDir, open_run
from robustprune.run.runtime import environment, ranks
from robustprune.sparsity import MaskSet, check_pattern
from robustprune.tasks import Corpus, load_corpus

#: the name of the network that such tasks need
NETWORK = "causal"
#: the name of the network that is pruned
DENSE = "dense"
#: what the config of such a run may set; other sections belong to classifiers
_TAKEN = (
    *("name", "seed", "task.name", "task.path", "model", "causal"),
    *("search.methods", "search.density", "search.pattern", "search.allocate", "search.dense"),
    *("layerwise.solver", "layerwise.options", "layerwise.target", "layerwise.outputs"),
    *("layerwise.bias", "trust"),
)


@dataclass(frozen=True)
class CausalRun:
    """What all stages of one run share.

    Attributes:
        calibration: (N, T) windows of the first part of the text, drawn by the seed.
        evaluation: (N, T) windows of the last part, from the first.
        data_dir: the folder of the data sets that the run was given.
    """

    config: Config
    corpus: Corpus
    language: CausalModel
    calibration: Tensor
    evaluation: Tensor
    device: torch.device
    folder: RunDir
    quiet: bool
    checkpoint_seconds: float = 15.0
    data_dir: Path | None = None

    def attack(self) -> PGD | None:
        """Return the attack on word embeddings, or None if the config asks for none."""
        section = self.config.causal
        if section.eps is None:
            return None
        threat = ThreatModel("l2", section.eps, support=words)
        return PGD(threat, loss=token_loss, steps=section.steps, seed=self.config.seed)


@dataclass(frozen=True)
class Level:
    """How sparse the network becomes: a pattern and the share of weights that it keeps."""

    pattern: str
    density: float

    @property
    def title(self) -> str:
        """What is pruned: N:M, or a share such as 50%."""
        if ":" in self.pattern:
            return self.pattern
        what = "" if self.pattern == "element" else f" ({self.pattern})"
        return f"{round(100 * (1 - self.density), 4):g}%{what}"

    @property
    def key(self) -> str:
        """Its part of a file name."""
        kept = f"{self.density:g}"
        return kept if self.pattern == "element" else self.pattern.replace(":", "of")


@dataclass(frozen=True)
class Pruned:
    """A network of the run. The dense one has no masks, method and level."""

    name: str
    title: str
    network: nn.Module
    masks: MaskSet | None = None
    method: Method | None = None
    level: Level | None = None


def levels_of(config: Config) -> list[Level]:
    """Return the levels of sparsity that the config asks for, in its order."""
    own = [Level(config.search.pattern, density) for density in config.search.density]
    for pattern in config.causal.patterns:
        kept, of = map(int, pattern.split(":"))
        own.append(Level(pattern, kept / of))
    return list(dict.fromkeys(own))


def searches_of(config: Config) -> Iterator[tuple[Method, Level]]:
    """Yield each method at each level. A method that only allots weights to layers in its own way
    is left out where the pattern fixes what each layer keeps."""
    for method in methods_of(config):
        assert method.causal is not None, "`check_causal` refuses these"
        for level in levels_of(config):
            allotted = method.causal(config).get("allocate", "layer")
            if not (":" in level.pattern and allotted == "owl"):
                yield method, level


def check_causal(config: Config) -> None:
    """Refuse what can't be run, or would have no effect, before anything is loaded.

    Raises:
        ValueError: a section belongs to classifiers, a method trains, or a pattern is impossible.
    """
    if config.model.name != NETWORK:
        raise ValueError(
            f"task '{config.task.name}' is text for a causal language model; set model.name to "
            f"{NETWORK}, and model.options.weights to a folder or hub id"
        )
    for path in _changed(config.model_dump(mode="json"), Config().model_dump(mode="json")):
        if not any(path == taken or path.startswith(f"{taken}.") for taken in _TAKEN):
            raise ValueError(
                f"{path} has no effect on a causal language model; leave it out (sections of such "
                "a run: task, model, search, layerwise, causal)"
            )
    for method in methods_of(config):
        if method.causal is None:
            able = ", ".join(name for name, row in ROWS.items() if row.causal is not None)
            raise ValueError(
                f"search.methods: {method.name} does not prune causal language models; choose any "
                f"of {able}"
            )
    for pattern in config.causal.patterns:
        if ":" not in pattern:
            raise ValueError(
                f"causal.patterns: {pattern!r} is not of the form N:M; other patterns belong into "
                "search.pattern"
            )
        check_pattern(pattern)
    for level in levels_of(config):
        check_pattern(level.pattern, level.density)
    check_methods(config)
    check_more(Asked.of(config.trust), config, causal=True)
    if ranks() > 1:
        raise ValueError(
            f"a causal language model is pruned by one process, not on {ranks()} ranks"
        )


def _changed(tree: dict[str, Any], defaults: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yield the dotted keys of values that differ from the defaults."""
    for key, value in tree.items():
        if value == defaults.get(key):
            continue
        if before == "" and isinstance(value, dict):
            yield from _changed(value, defaults[key], f"{key}.")
        else:
            yield f"{before}{key}"


def prepare_causal(
    config: Config,
    *,
    out: Path,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
    checkpoint_seconds: float = 15.0,
    write: bool = True,
) -> CausalRun:
    """Load the text and the model, cut windows, and open the run directory.

    Args:
        write: whether the run directory is made; otherwise it is neither made nor read.

    Raises:
        ValueError, OSError: the config, the text, the model or the folder is invalid; the message
            is one complete line.
    """
    check_causal(config)
    section, device = config.causal, torch.device(device)
    corpus = load_corpus(
        config.task.name, data_dir=data_dir, path=config.task.path, field=section.field
    )
    language = _language(**checked_options(_language, config.model.options, model=NETWORK))
    language.check_window(section.window, "causal.window")
    language.check_window(section.calibration_window, "causal.calibration_window")
    language.check_window(section.prompt + section.continuation, "causal.prompt + continuation")
    language.check_window(section.decode + 3, "causal.decode + 3")
    evaluation = windows(language.tokens(corpus.test), section.window, bos=language.bos)
    if section.prompt > section.window:
        raise ValueError(
            f"causal.prompt={section.prompt} is longer than a window of {section.window} tokens"
        )
    calibration = random_windows(
        language.tokens(corpus.train),
        section.calibration_window,
        section.calibration,
        bos=language.bos,
        seed=config.seed,
    )
    if not section.offload:
        language.network.to(device)
    run = CausalRun(
        config, corpus, language, calibration, evaluation[: section.windows], device,
        RunDir(config.folder(out)), quiet, checkpoint_seconds, data_dir,
    )  # fmt: skip
    if not write:
        return run
    return replace(run, folder=open_run(config, out, environment(device), _origin(run)))


def _language(*, weights: str = STORIES, dtype: str = "stored", tokenizer: str = "") -> CausalModel:
    """Load the model that `model.options` names."""
    return load_causal(
        weights, dtype=None if dtype == "stored" else dtype, tokenizer=tokenizer or None
    )


def _origin(run: CausalRun) -> dict[str, str]:
    """Return digests of what the config only names: the weights, the tokenizer and the text."""
    options = run.config.model.options
    described = causal_digest(options.get("weights", STORIES), options.get("tokenizer"))
    return {
        "network": digest_of(run.language.network),
        "tokenizer": (described or "")[:16],
        "data": tensor_digest(run.calibration, run.evaluation)[:16],
    }
