"""What `robustprune evaluate` does with the folder of a causal language model."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from robustprune.cli.shared import answer
from robustprune.run.config import Config, load_config, parsed_overrides, with_values
from robustprune.run.packaged import config_path
from robustprune.run.terminal import printable

#: the packaged model
_STORIES = "stories260K"
#: options of `evaluate` that only classifiers have
_OTHERS = ("state", "bounds", "layout", "test")


def is_language_model(name: str) -> bool:
    """Return whether a name is a folder, the packaged model or a hub id, and no function."""
    hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)
    return Path(name).expanduser().is_dir() or name == _STORIES or hub is not None


def evaluate_language_model(options: argparse.Namespace) -> int:
    """Measure perplexity and sparsity, and print them."""
    for name in _OTHERS:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} has no effect on a causal language model; leave it out")
    if options.norm not in (None, "l2"):
        raise ValueError(
            f"--norm {options.norm} is no norm for the word embeddings of a window; leave it out "
            "(it is l2)"
        )
    config = _config(options)
    from attacks import PGD, ThreatModel
    from robustprune.models.language import transformers_library

    transformers_library()  # says in one line that it is missing
    from robustprune.lm import token_loss
    from robustprune.packing import words
    from robustprune.pipeline.causal_evaluate import evaluate_causal
    from robustprune.run.runtime import choose_device

    section = config.causal
    attack = None
    if section.eps is not None:
        threat = ThreatModel("l2", section.eps, support=words)
        attack = PGD(threat, loss=token_loss, steps=section.steps, seed=options.seed)
    text, source = _text(config, options)
    own = {k: v for k, v in config.model.options.items() if k in ("dtype", "tokenizer")}
    content = evaluate_causal(
        options.model, text, section, attack=attack, tasks=options.lm_eval,
        task_folder=options.lm_eval_tasks, task_examples=options.examples,
        device=choose_device(options.device), **own,
    )  # fmt: skip
    content = {"source": source, **content}
    answer(options, content, lambda: _show(content))
    return 0


def _config(options: argparse.Namespace) -> Config:
    """Return the config that says what is measured; with --data alone, its defaults."""
    field = None if options.label is None else json.dumps(options.label)
    chosen = (("windows", options.examples), ("eps", options.eps), ("field", field))
    given = [f"causal.{key}={value}" for key, value in chosen if value is not None]
    if options.config:
        config = load_config(config_path(options.config), [*options.overrides, *given])
        if config.model.name != "causal":
            raise ValueError(
                f"{options.config} is the config of a classifier; give one of a causal language "
                "model, such as lm_stories, or --data with a text"
            )
        return config
    tree = {"task": {"name": "corpus", "path": options.data}, "model": {"name": "causal"}}
    return with_values(tree, parsed_overrides([*options.overrides, *given]))


def _text(config: Config, options: argparse.Namespace) -> tuple[str, str]:
    """Return the text and where it comes from: the whole of a file in --data, or the part on which
    a run is measured."""
    from robustprune.tasks import load_corpus
    from robustprune.tasks.corpus_files import read_document

    path = config.task.path
    if options.data and path is not None and not path.is_dir():
        return read_document(path.expanduser(), field=config.causal.field), path.name
    corpus = load_corpus(
        config.task.name, data_dir=options.data_dir, path=path, field=config.causal.field
    )
    return corpus.test, corpus.source


def _show(content: dict[str, Any]) -> None:
    about = f"{content['model']} ({content['type']}, {content['parameters']:,} parameters)"
    print(printable(f"{about} on {content['windows']} windows of {content['window']} tokens"))
    print(printable(f"  text          {content['source']}"))
    print(f"  perplexity    {_figure(content['perplexity'])}")
    if content["attacked"]:
        seen = content["attacked"]
        print(
            f"  under attack  {_figure(seen)}  eps {seen['eps']:g}, {seen['windows']} windows, "
            "upper bound"
        )
    sparsity = content["sparsity"]
    print(f"  zeros         {sparsity['zeros']:.1%} of {sparsity['weights']:,} weights of layers")
    if sparsity["masked"]:
        masked = sparsity["masked"]
        print(
            f"  masks         {masked['sparsity']:.1%} pruned in {masked['layers']} layers; every "
            "pruned weight is zero"
        )
    for figure in content.get("tasks", ()):
        se = "" if figure["se"] is None else f"  standard error {figure['se']:.2g}"
        name = f"{figure['task']}, {figure['metric']}"
        print(printable(f"  {name:<24}  {figure['value']:.4g}  n = {figure['n']}{se}"))


def _figure(seen: dict[str, Any]) -> str:
    value, low, high = (
        "inf" if number is None else f"{number:.4g}" for number in (seen["value"], *seen["ci95"])
    )
    return f"{value}  [{low}, {high}]"
