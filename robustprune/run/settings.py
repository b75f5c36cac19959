"""The sections of a config that do not belong to a method, with the meaning beside each field.

The sections of methods, and the list of all sections, are in `sections.py`.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: object) -> object:
    """Accept fractions such as 8/255, as papers write them."""
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
#: measures of `robustprune trust` that are asked for by name
TrustName = Literal["lira", "backdoor", "leakage", "set-difference"]
SHADOWS = 8


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSection(Section):
    name: str = "ecg200"  # a name from `robustprune.tasks.task_names()`, or ucr:<Name>
    path: Path | None = None  # the file or folder of npz, csv, series, images, parquet or text
    bounds: tuple[Number, Number] | None = None  # range of valid inputs of your own data
    # Share of your own data that is held out for the test, if they have no test split.
    test: Annotated[Number, Field(gt=0, lt=1)] | None = None
    # Series of unequal length, and missing values; for tasks ucr:<Name>, csv, series and parquet.
    length: Literal["refuse", "pad", "truncate"] = "refuse"
    missing: Literal["refuse", "interpolate", "zero"] = "refuse"
    label: str = "first"  # column of the labels, only for csv, parquet: first, last or its name
    # Whether the first row of .csv and .tsv files names the columns; null decides by the row.
    header: bool | None = None
    # The dimension of the channels, only for task npz; null decides by the shape. Or flat features,
    # for npz, csv, series and parquet.
    layout: Literal["channels_first", "channels_last", "flat"] | None = None
    size: Count | None = None  # images: side of the squares to which pictures are scaled and cut
    max_length: Count = 128  # most tokens of a sentence or pair in text tasks; the rest is cut off
    by_length: bool = False  # text tasks: batches of sentences of similar length, with less padding
    batch_size: Count = 25
    augment: bool = True  # use the task's own augmentation, if it has one
    # Share of the training data that is held out to choose the epoch; 0 takes the last epoch.
    validation: Annotated[Number, Field(ge=0, lt=1)] = 0.0


class ModelSection(Section):
    name: str = "fcn"
    options: dict[str, Any] = {}  # the network's own options, such as widths


class ThreatSection(Section):
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Positive = 0.1  # in input units; fractions such as 8/255 are allowed


class InnerSection(Section):
    """The inner attack of training."""

    attack: Literal["pgd", "fgsm", "fgsm_rs"] = "pgd"
    steps: Count = 7  # PGD only
    step_size: Positive | None = None  # input units; null: 2.5·eps/steps or the attack's default
    mode: Literal["eval", "train"] = "eval"  # mode of batch norm while the attack runs
    warmup: NonNegative = 0.0  # number of epochs in which eps grows from zero
    # Text tasks: before that attack, up to this share of each sentence's words are replaced by
    # WordNet synonyms: those that raise the loss most, or random ones. null replaces none.
    synonyms: Annotated[Number, Field(gt=0, le=1)] | None = None
    synonyms_by: Literal["gradient", "chance"] = "gradient"


class OptimizerSection(Section):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    milestones: tuple[int, ...] = ()  # epochs of schedule "step": lr divided by 10 at each
    warmup: NonNegative = 0.0  # number of epochs in which lr grows from zero


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
    "ard",
    "rslad",
    "iad",
]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
#: the objectives with a teacher
DISTILLED: tuple[ObjectiveName, ...] = ("ard", "rslad", "iad")


class ObjectiveSection(Section):
    """The objective of every robust training.

    With ard, rslad and iad, the dense network is trained adversarially and then teaches all others.
    """

    name: ObjectiveName = "adversarial"
    beta: Positive = 6.0  # weight of the robust term of trades, smart and mart (mart's paper: 5)
    sigma: Positive = 0.25  # gaussian: sd of the noise, in input units
    replays: Count = 4  # free: how many times in a row each batch comes
    kappa: Annotated[Number, Field(ge=0, le=1)] = 0.5  # ibp, crown-ibp: final weight of clean loss
    alpha: Annotated[Number, Field(ge=0, le=1)] = 1.0  # ard, iad: weight of the teacher
    #: ard, iad: softens the answers of teacher and student; null: 30 for ard, 1 for iad
    temperature: Positive | None = None
    clean: Annotated[Number, Field(ge=0, le=1)] = 1 / 6  # rslad: weight of clean examples
    #: γ of adversarial weight perturbation, on top of any objective except free; 0: none
    awp: NonNegative = 0.0


class SelectionSection(Section):
    """The adversarial examples on which robust trainings train; only for objective adversarial."""

    method: Literal[
        "none", "knn_shapley", "data_shapley", "tracin", "boundary", "loss", "random"
    ] = "none"  # none trains on all
    # Share of the training examples, or positive: all with a score above zero
    keep: Density | Literal["positive"] = 0.5
    balanced: bool = True  # take that share of each class, if keep is a fraction
    weighted: bool = False  # weight losses in proportion to the scores
    start: Annotated[int, Field(ge=0)] = 10  # number of epochs before the first selection
    every: Count | None = None  # number of epochs between two selections; null: only one selection
    clean_rest: bool = True  # train on the other examples without an attack, or not at all
    values: Literal["attacked", "clean"] = "attacked"  # validation examples that give scores
    pool_steps: Count | None = None  # PGD for the candidates; null: the inner attack
    neighbours: Count = 5  # K of knn_shapley
    permutations: Annotated[int, Field(ge=2)] = 10  # random orders of data_shapley


class LoopSection(Section):
    """The options that all trainings share."""

    average: Annotated[Number, Field(gt=0, lt=1)] | None = None  # decay of averaged weights
    patience: Count | None = None  # epochs without a better validation until a training ends
    amp: bool = False  # bfloat16 where torch finds it safe
    channels_last: bool = False  # memory layout of images that is fast on tensor cores
    compile: bool = False  # use torch.compile; it takes tens of seconds, so only for long trainings


TextAttackName = Literal["text_fooler", "text_bugger", "deep_word_bug", "pwws", "bert_attack"]


class EvaluationSection(Section):
    """How robust accuracy is measured on the test set."""

    examples: Count | None = None  # number of test examples, from the first; null: all
    batch_size: Count = 500
    steps: Count = 20
    step_size: Positive | None = None  # in input units; null: 2.5·eps/steps
    restarts: Count = 5
    curve: bool = True  # measure accuracy against eps until it reaches zero
    # Attacks besides FGSM and PGD; autoattack is the whole standard protocol.
    more: tuple[Literal["apgd", "square", "autoattack"], ...] = ()
    # Number of examples on which r*, the distance to the nearest adversarial example, is measured
    # for the headline model and the dense networks; 0 for none.
    minimal: Annotated[int, Field(ge=0)] = 0
    switch: bool = True  # measure the random ticket switch (R2S) if there are several densities
    # Text tasks: black-box attacks on the text, for the headline model and the dense networks.
    text: tuple[TextAttackName, ...] = ()
    sentences: Count = 100  # number of test sentences that are attacked
    queries: Count = 500  # largest number of queries of an attack on one sentence
    masked_lm: str | None = None  # masked language model of bert_attack: hub id or folder


class TrustSection(Section):
    """What the headline model loses beside the dense one: trust.html, see `robustprune trust`."""

    # Largest number of test examples (of causal language models: of windows); null: not measured.
    examples: Annotated[int, Field(ge=2)] | None = None
    # Measures that take longer. lira and backdoor train networks of classifiers again, and leakage
    # those of causal language models; set-difference removes weights.
    more: tuple[TrustName, ...] = ()
    # lira: number of shadow networks of each kind, an even number from 4.
    shadows: Annotated[int, Field(ge=4, multiple_of=2)] = SHADOWS
    # set-difference of causal language models: two texts. Classifiers compare the first class with
    # the others.
    sets: tuple[Path, Path] | None = None

    @model_validator(mode="after")
    def _measured(self) -> TrustSection:
        if self.examples is None and self.more:
            raise ValueError("more has no effect without examples; set trust.examples to 1000, say")
        if self.shadows != SHADOWS and "lira" not in self.more:
            raise ValueError("shadows has no effect without lira in trust.more; leave it out")
        return self


class DeploySection(Section):
    """Files of the headline model for other runtimes."""

    int8: bool = False  # write headline.onnx (static shapes) and headline.int8.onnx (calibrated)


class CertifySection(Section):
    """Certificates of the headline model, and of others that are named, on the first test examples:
    lower bounds on r*."""

    # Method of deterministic bounds, in the threat model's norm and bounds.
    method: Literal["none", "ibp", "crown-ibp", "crown", "alpha-crown"] = "none"
    examples: Count = 50
    also: tuple[str, ...] = ()  # other networks of the run, such as [adversarial]
    sigma: Positive | None = None  # sd of the noise of smoothing, in input units; null: none
    # Text tasks: most WordNet synonyms in a group for smoothing over words; null: no smoothing.
    synonyms: Annotated[int, Field(ge=2)] | None = None
    n0: Count = 100  # noise samples that select the class
    n: Count = 10_000  # noise samples that certify it
    alpha: Annotated[Number, Field(gt=0, lt=1)] = 0.001  # failure probability of each claim
