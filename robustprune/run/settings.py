"""Sections of a run's description that say nothing of methods, with the meaning beside each field.

Those of the methods, and the list of all sections, are in `sections.py`.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: object) -> object:
    """Allow fractions such as 8/255, the way papers write them."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value))
        except (ValueError, ArithmeticError):
            return value
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Density = Annotated[Number, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSection(Section):
    name: str = "ecg200"  # a name from `robustprune.tasks.task_names()`, or ucr:<Name>
    path: Path | None = (
        None  # of tasks npz (the file), csv, series (TRAIN or folder), text (folder)
    )
    bounds: tuple[Number, Number] | None = None  # valid input range of task "npz"
    # Series of unequal length and missing values, of tasks ucr:<Name>, "csv" and "series"
    length: Literal["refuse", "pad", "truncate"] = "refuse"
    missing: Literal["refuse", "interpolate", "zero"] = "refuse"
    label: Literal["first", "last"] = "first"  # column of task "csv"
    # Whether the first row of .csv and .tsv files names the columns; null tells it from the row.
    header: bool | None = None
    # Where the channels of task "npz" are; null tells it from the shape.
    layout: Literal["channels_first", "channels_last"] | None = None
    max_length: Count = 128  # tokens of a sentence (or pair) of a text task; the rest is cut
    by_length: bool = False  # of a text task: batches of sentences of like length; less padding
    batch_size: Count = 25
    augment: bool = True  # the task's own augmentation, where it has one
    # Part of the training data held out to choose the epoch; 0 takes the last epoch.
    validation: Annotated[Number, Field(ge=0, lt=1)] = 0.0


class ModelSection(Section):
    name: str = "fcn"
    options: dict[str, Any] = {}  # the network's own options, such as widths


class ThreatSection(Section):
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Positive = 0.1  # input units; fractions such as 8/255 are understood


class InnerSection(Section):
    """The inner maximisation of training."""

    attack: Literal["pgd", "fgsm", "fgsm_rs"] = "pgd"
    steps: Count = 7  # PGD only
    step_size: Positive | None = None  # input units; default 2.5·eps/steps, or the attack's own
    mode: Literal["eval", "train"] = "eval"  # of batch norm while the attack runs
    warmup: NonNegative = 0.0  # epochs in which eps grows from zero
    # Of text tasks: before that attack, up to this part of each sentence's words are exchanged for
    # WordNet synonyms: those that raise the loss most, or any; none are without it.
    synonyms: Annotated[Number, Field(gt=0, le=1)] | None = None
    synonyms_by: Literal["gradient", "chance"] = "gradient"


class OptimizerSection(Section):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    milestones: tuple[int, ...] = ()  # epochs of schedule "step": lr divided by 10 at each
    warmup: NonNegative = 0.0  # epochs


class TrainingSection(Section):
    epochs: Count = 100
    optimizer: OptimizerSection = OptimizerSection()


ObjectiveName = Literal[
    "adversarial",
    "natural",
    "trades",
    "mart",
    "smart",
    "freelb",
    "free",
    "gaussian",
    "ibp",
    "crown-ibp",
]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)


class ObjectiveSection(Section):
    """The outer objective of everything that is trained robustly."""

    name: ObjectiveName = "adversarial"
    beta: Positive = 6.0  # weight of the robust term of trades and smart; mart's λ is mostly 5
    sigma: Positive = 0.25  # of gaussian, in input units
    replays: Count = 4  # of free: each batch comes so often in a row
    kappa: Annotated[Number, Field(ge=0, le=1)] = 0.5  # clean share of ibp and crown-ibp at the end


class SelectionSection(Section):
    """On which adversarial examples everything robust is trained; of objective adversarial."""

    method: Literal[
        "none", "knn_shapley", "data_shapley", "tracin", "boundary", "loss", "random"
    ] = "none"  # none trains on all
    # Part of the training examples, or positive: all whose value is above zero
    keep: Density | Literal["positive"] = 0.5
    balanced: bool = True  # that part of each class, where keep is a fraction
    weighted: bool = False  # losses in proportion to the values, instead of all alike
    start: Annotated[int, Field(ge=0)] = 10  # epochs of each training before the first selection
    every: Count | None = None  # epochs between two selections; none for one only
    clean_rest: bool = True  # what is not taken is trained on as it is, or else not at all
    values: Literal["attacked", "clean"] = "attacked"  # which examples the candidates are for
    pool_steps: Count | None = None  # of the PGD that makes the candidates; default as inner
    neighbours: Count = 5  # K of knn_shapley
    permutations: Annotated[int, Field(ge=2)] = 10  # of data_shapley


class LoopSection(Section):
    """What every training has in common."""

    average: Annotated[Number, Field(gt=0, lt=1)] | None = None  # decay of a weight average
    patience: Count | None = None  # epochs without a better validation before a training ends
    amp: bool = False  # bfloat16 where torch finds it safe
    channels_last: bool = False  # memory layout of images, for tensor cores
    compile: bool = False  # torch.compile: worth its tens of seconds in long trainings


TextAttackName = Literal["text_fooler", "text_bugger", "deep_word_bug", "pwws", "bert_attack"]


class EvaluationSection(Section):
    """How robust accuracy is measured on the test set."""

    examples: Count | None = None  # the first so many test examples; default all
    batch_size: Count = 500
    steps: Count = 20
    step_size: Positive | None = None  # default 2.5·eps/steps
    restarts: Count = 5
    curve: bool = True  # accuracy against eps until it reaches zero
    # Besides FGSM and PGD; "autoattack" is the whole standard protocol.
    more: tuple[Literal["apgd", "square", "autoattack"], ...] = ()
    # r*, the distance to the nearest adversarial example, of the headline and the dense networks,
    # on the first so many of these examples; 0 leaves it out.
    minimal: Annotated[int, Field(ge=0)] = 0
    switch: bool = True  # random ticket switch (R2S) over the densities, when there are several
    # Black-box attacks on the text itself, of text tasks: the headline and the dense networks.
    text: tuple[TextAttackName, ...] = ()
    sentences: Count = 100  # the first so many test sentences meet them
    queries: Count = 500  # most queries of such an attack on one sentence
    masked_lm: str | None = None  # whose proposals bert_attack takes: hub id or folder


class DeploySection(Section):
    """Files of the headline model for other runtimes."""

    int8: bool = False  # headline.onnx with static shapes and, calibrated, headline.int8.onnx


class CertifySection(Section):
    """Certificates of the headline model on the first test examples: lower bounds on r*."""

    # Deterministic bounds of the network, in the threat model's norm and bounds.
    method: Literal["none", "ibp", "crown-ibp", "crown", "alpha-crown"] = "none"
    examples: Count = 50
    sigma: Positive | None = None  # smoothing: sd of the noise, input units; none without it
    # Of text tasks: smoothing over groups of so many WordNet synonyms at most; none without it.
    synonyms: Annotated[int, Field(ge=2)] | None = None
    n0: Count = 100  # noise samples that select the class
    n: Count = 10_000  # noise samples that certify it
    alpha: Annotated[Number, Field(gt=0, lt=1)] = 0.001  # failure probability of each statement
