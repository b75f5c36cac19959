"""The entry points of scripts/*.py. Each is the command `run` with its own default config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from robustprune.cli.run import RESUMES, add_run_options, run_config
from robustprune.cli.shared import Parser, add_output_options, carry_out, describe
from robustprune.run.packaged import config_names


@dataclass(frozen=True)
class Script:
    """One script: its name, its default config and its help text."""

    name: str
    config: str
    about: str
    examples: tuple[tuple[str, str], ...]
    datasets: tuple[tuple[str, str], ...] = ()  # pairs of a data set and its config, for --dataset


FIND_RST = Script(
    "find_rst.py",
    "rst_ecg200",
    "Find a robust scratch ticket: the sparse mask under which a randomly initialised network, "
    "whose weights are never trained, is accurate and robust (Fu et al., NeurIPS 2021).",
    (
        ("", "ECG200, keeping 50% of a random network"),
        ("--density 0.05 0.1 0.2 0.5", "four tickets, with R2S and a plot over density"),
        ("--config rst_mnist --data-dir ~/data", "another packaged config"),
        ("--config rst_certified_ecg200", "a certified scratch ticket"),
        ("--config my.yaml --seed 3 --set search.epochs=50", "your own config, one field changed"),
    ),
)
PRUNE_ADMM = Script(
    "prune_admm.py",
    "admm_ecg200",
    "Prune an adversarially trained network by ADMM while it goes on training under attack, then "
    "retrain what is left (Ye et al., ICCV 2019).",
    (
        ("", "ECG200, keeping 10% of the weights"),
        ("--density 0.5 --set search.pattern=2:4", "two of every four inputs"),
        ("--set search.pattern=filter", "whole filters, which makes the network smaller"),
        ("--method admm_l1 --set admm.l1=1e-4", "the l1 form: a weight λ instead of a density"),
    ),
)
PRUNE_SCORES = Script(
    "prune_scores.py",
    "scores_ecg200",
    "Learn which weights of an adversarially trained network to keep, under the robust loss: HYDRA "
    "(Sehwag et al., NeurIPS 2020) and HARP, which learns each layer's share (Zhao et al., ICLR "
    "2023); then fine-tune them.",
    (
        ("", "ECG200, HYDRA and HARP keeping 10%"),
        ("--method hydra --density 0.01 0.05 0.1", "three densities, a plot over density"),
        ("--set objective.name=trades", "TRADES in place of adversarial training"),
    ),
)
FIND_LOTTERY = Script(
    "find_lottery_ticket.py",
    "lottery_ecg200",
    "Find a lottery ticket: train, prune the smallest weights, rewind, train again (Frankle & "
    "Carbin, ICLR 2019), under attack; with random and re-initialised controls.",
    (
        ("", "ECG200, keeping 20% in five rounds"),
        ("--set lottery.rounds=1", "one-shot"),
        ("--set lottery.rewind=40", "rewind to step 40 instead of the initial weights"),
    ),
)
PRUNE_ONE_SHOT = Script(
    "prune_one_shot.py",
    "one_shot_ecg200",
    "Score every weight once, by magnitude, noise, SNIP, GraSP or the diagonal of the Hessian "
    "(OBD), under attack; keep the best and fine-tune them.",
    (
        ("", "ECG200, all criteria at 10%"),
        ("--method snip grasp --set one_shot.weights=random", "pruning at initialisation"),
    ),
)
PRUNE_LAYERWISE = Script(
    "prune_layerwise.py",
    "layerwise_ecg200",
    "Prune an adversarially trained network without training: one least-squares problem a layer, "
    "solved by ADMM (Boža 2024), on attacked inputs; beside Wanda (Sun et al. 2023) and SparseGPT "
    "(Frantar & Alistarh 2023).",
    (
        ("", "ECG200, keeping 10% and 5%"),
        ("--method layerwise --set layerwise.solver=omp 'layerwise.options={}'", "another solver"),
        ("--set 'finetune.modes=[inherit]' finetune.epochs=10", "and fine-tune for ten epochs"),
        ("--config layerwise_mnist --data-dir ~/data", "MNIST"),
    ),
)
TRAIN_SPARSE = Script(
    "train_sparse.py",
    "sparse_ecg200",
    "Train networks that are sparse from the start, under attack; masks move on the way: RigL "
    "(Evci et al. 2020), SET (Mocanu et al. 2018), ITOP, MEST, GraNet, Flying Bird and others, "
    "beside a random mask that stays.",
    (
        ("", "ECG200, RigL, SET and a static mask keeping 10%"),
        ("--method flyingbird itop --density 0.05 0.1", "other methods, two densities"),
        ("--method rigl --set sparse.drop=0.5 sparse.every=10", "numbers of your own"),
        ("--config sparse_cifar10_resnet18 --data-dir ~/data", "Flying Bird's settings"),
    ),
)
PRUNE_LM = Script(
    "prune_lm.py",
    "lm_stories",
    "Prune a causal language model without training: least squares towards the residual stream by "
    "ADMM, beside OWL, SparseGPT, Wanda and magnitude; perplexity with intervals. Needs the extra "
    "lm.",
    (
        ("", "stories260K on TinyStories, 50%, 70% and 2:4"),
        ("--method layerwise wanda --density 0.5", "two methods at 50% and 2:4"),
        ("--set model.options.weights=FOLDER causal.window=1024", "your own model, or a hub id"),
        ("--set task.name=wikitext2 --data-dir ~/data", "~/data/WikiText-2, or its download"),
        ("--data mine.jsonl --label story", "your own text: .txt, .jsonl, .parquet"),
        ("--set causal.windows=null causal.calibration=128", "the whole protocol"),
    ),
)
FIND_PLM = Script(
    "find_plm_ticket.py",
    "plm_minilm_sst2",
    "Find a robust lottery ticket of a pre-trained language model: masks learned while word "
    "embeddings are under attack, the weights frozen; then reset and fine-tuned (Zheng et al., ACL "
    "2022). Needs the extra lm.",
    (
        ("", "MiniLM on 600 sentences of SST-2, keeping 70%"),
        ("--set task.name=sst2 --data-dir ~/data", "all of it: ~/data/SST-2/{train,dev}.tsv"),
        ("--set language.granularity=head", "whole attention heads"),
        ("--config plm_bert_sst2 --data-dir ~/data", "bert-base-uncased with the paper's settings"),
    ),
)
COMPARE_METHODS = Script(
    "compare_methods.py",
    "methods_ecg200",
    "Every method on the same data, network, objective and density, in one table.",
    (
        ("", "ECG200, ten methods at 10%"),
        ("--method admm hydra magnitude --density 0.05", "three of them"),
    ),
)
LOWDATA_TIMESERIES = Script(
    "lowdata_timeseries.py",
    "lowdata_ecg200",
    "Few training series: natural and adversarial training, adversarial training on chosen "
    "examples, 90% of the weights pruned under it, distances to the nearest adversarial example, "
    "certificates, and an int8 file for a sensor device, in one report.",
    (
        ("--dataset ECG200", "100 training series"),
        ("--dataset SonyAIBORobotSurface1", "20 training series"),
        ("--dataset Coffee --data-dir ~/data", "another set of the UCR archive, with that config"),
        ("--set selection.method=random", "a control: as many examples, drawn at random"),
    ),
    (("ECG200", "lowdata_ecg200"), ("SonyAIBORobotSurface1", "lowdata_sony")),
)


def run_script(script: Script, arguments: Sequence[str] | None = None) -> int:
    """Run `scripts/<name>` and return the exit status."""
    parser = Parser(prog=script.name)
    describe(parser, script.about, script.examples, closing=RESUMES)
    parser.add_argument(
        "--config",
        default=script.config,
        metavar="FILE|NAME",
        help=f"YAML file, or one of {', '.join(config_names())} (default: %(default)s)",
    )
    add_run_options(parser)
    add_output_options(parser)
    if script.datasets:
        names = ", ".join(name for name, _ in script.datasets)
        parser.add_argument(
            "--dataset", metavar="SET", help=f"{names}, or another UCR set of --data-dir"
        )

    def command(options: argparse.Namespace) -> int:
        if script.datasets and options.dataset:
            _take_dataset(script, options)
        return run_config(options)

    return carry_out(parser, arguments, command)


def _take_dataset(script: Script, options: argparse.Namespace) -> None:
    """Take the config of the data set; a set without one replaces the set of the last config."""
    known = dict(script.datasets)
    options.config = known.get(options.dataset, script.datasets[-1][1])
    if options.dataset not in known:
        chosen = [f"name=lowdata_{options.dataset}", f"task.name=ucr:{options.dataset}"]
        options.overrides = [*chosen, *options.overrides]
