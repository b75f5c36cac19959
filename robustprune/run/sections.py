"""The sections of a run's description and their fields, with the meaning beside each."""

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


Weights = Literal["random", "natural", "adversarial"]
Trained = Literal["natural", "adversarial"]
Method = Literal[
    "rst",
    "admm",
    "admm_l1",
    "hydra",
    "harp",
    "lottery",
    "language",
    "magnitude",
    "random",
    "snip",
    "grasp",
    "obd",
    "obd_ggn",
]
METHODS: tuple[Method, ...] = get_args(Method)


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


class SearchSection(TrainingSection):
    """Which networks are allowed, for all methods; with the training and options of rst."""

    methods: tuple[Method, ...] = Field(default=("rst",), min_length=1)
    density: tuple[Density, ...] = Field(default=(0.5,), min_length=1)  # kept fractions
    pattern: str = "element"  # element, row, kernel, filter, channel, column, 4x4, 2:4, ...
    # layer, global, erk, or a density for each layer by its parameter name
    allocate: Literal["layer", "global", "erk"] | dict[str, Density] = "layer"
    dense: tuple[str, ...] = ()  # layers left whole: first, last or names
    weights: Weights = "random"  # of rst: random, or trained ones (RTT)
    init: Literal[
        "signed_kaiming_constant",
        "kaiming_normal",
        "kaiming_uniform",
        "xavier_normal",
        "xavier_constant",
    ] = "signed_kaiming_constant"
    fan_scaling: bool = False
    bias_scale: NonNegative = 0.0  # random biases, U(-b, b) with b = bias_scale·√(2/fan in)
    # Units of the first layer as random thresholds: lo, hi in standard deviations of each unit.
    thresholds: tuple[Number, Number] | None = None


class AdmmSection(TrainingSection):
    """Methods admm and admm_l1."""

    weights: Trained = "adversarial"  # the dense baseline to start from
    l1: Positive | None = None  # λ of admm_l1
    rho: Positive = 1e-3
    rho_growth: Positive = 1.3  # at each update, up to rho_max
    rho_max: Positive = 1.0
    every: Count = 20  # epochs between two updates of Z and U


class ScoresSection(TrainingSection):
    """Methods hydra and harp."""

    weights: Trained = "adversarial"


class LotterySection(TrainingSection):
    """Method lottery: every round, and the ticket's last training, has these epochs."""

    rounds: Count | None = None  # 1 is one-shot; default 20% of the survivors a round
    rewind: Annotated[int, Field(ge=0)] = 0  # optimizer steps of the first training
    controls: tuple[Literal["random", "reinit"], ...] = ("random", "reinit")


class LanguageSection(TrainingSection):
    """Method language: the search for masks; the ticket is trained as `finetune` says."""

    epochs: Count = 20
    optimizer: OptimizerSection = OptimizerSection(
        name="adamw", lr=0.1, weight_decay=1e-6, schedule="linear"
    )
    weights: Trained = "natural"  # the fine-tuned model whose weights are masked
    granularity: Literal["weight", "head", "neuron", "layer"] = "weight"
    penalty: NonNegative = 0.5  # λ of the expected share of kept weights
    #: P(m ≠ 0) at the start; null: as much as starts the search at the density that is drawn
    kept: Annotated[Number, Field(gt=0, lt=1)] | None = 0.9
    spread: NonNegative = 0.0  # of first scores by rank of magnitude; the paper's all start alike
    #: whether the ticket starts at the pre-trained weights; if not, at those that were masked
    reset: bool = True
    #: of the ticket and its controls; none (with reset: false): the mask alone, nothing trained
    finetune: Literal["natural", "robust", "none"] = "natural"
    controls: tuple[Literal["random", "reinit"], ...] = ("random", "reinit")


class OneShotSection(Section):
    """Methods magnitude, random, snip, grasp, obd and obd_ggn."""

    weights: Weights = "adversarial"
    batches: Count = 4  # that the data-driven criteria see


class FinetuneSection(TrainingSection):
    modes: tuple[Literal["inherit", "reinit", "full"], ...] = ("inherit", "reinit")
    init: Literal["kaiming_normal", "kaiming_uniform", "signed_kaiming_constant"] = "kaiming_normal"


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
