"""The names of the methods and the sections of their options; and the list of all sections."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from robustprune.run.settings import (
    CertifySection,
    Count,
    Density,
    DeploySection,
    EvaluationSection,
    InnerSection,
    LoopSection,
    ModelSection,
    NonNegative,
    Number,
    ObjectiveSection,
    OptimizerSection,
    Positive,
    Section,
    SelectionSection,
    TaskSection,
    ThreatSection,
    TrainingSection,
    TrustSection,
)

Share = Annotated[Number, Field(ge=0, le=1)]
Weights = Literal["random", "natural", "adversarial"]
Trained = Literal["natural", "adversarial"]
Method = Literal[
    "rst",
    "admm",
    "admm_l1",
    "hydra",
    "harp",
    "lottery",
    "gradual",
    "static",
    "set",
    "rigl",
    "itop",
    "mest",
    "mest_ems",
    "granet",
    "hard_thresholding",
    "flyingbird",
    "flyingbird_plus",
    "l0",
    "twin",
    "language",
    "magnitude",
    "random",
    "snip",
    "grasp",
    "obd",
    "obd_ggn",
    "woodfisher",
    "layerwise",
    "wanda",
    "sparsegpt",
    "owl",
    "owl_wanda",
    "obs",
]
METHODS: tuple[Method, ...] = get_args(Method)


class SearchSection(TrainingSection):
    """Which networks are allowed, for all methods; and the training and the options of rst."""

    methods: tuple[Method, ...] = Field(default=("rst",), min_length=1)
    density: tuple[Density, ...] = Field(default=(0.5,), min_length=1)  # kept fractions
    pattern: str = "element"  # element, row, kernel, filter, channel, column, 4x4, 2:4, ...
    # layer, row, global, erk, igq, owl (only without training), or a density for each layer by name
    allocate: Literal["layer", "row", "global", "erk", "igq", "owl"] | dict[str, Density] = "layer"
    dense: tuple[str, ...] = ()  # layers that are not masked: first, last or names
    weights: Weights = "random"  # only rst: random, or trained weights (RTT)
    init: Literal[
        "signed_kaiming_constant",
        "kaiming_normal",
        "kaiming_uniform",
        "xavier_normal",
        "xavier_constant",
    ] = "signed_kaiming_constant"
    fan_scaling: bool = False
    bias_scale: NonNegative = 0.0  # random biases, U(-b, b) with b = bias_scale·√(2/fan in)
    # Random thresholds for the first layer: lo, hi in standard deviations of each unit; null: none.
    thresholds: tuple[Number, Number] | None = None


class AdmmSection(TrainingSection):
    """Methods admm and admm_l1."""

    weights: Trained = "adversarial"  # the dense baseline to start from
    l1: Positive | None = None  # λ of admm_l1, the weight of the l1 norm
    rho: Positive = 1e-3
    rho_growth: Positive = 1.3  # at each update, up to rho_max
    rho_max: Positive = 1.0
    every: Count = 20  # number of epochs between two updates of Z and U
    # only admm: kept weights of a layer take at most 2^bits values; null: any number of values
    bits: Annotated[int, Field(ge=1, le=16)] | None = None
    hold: Annotated[Number, Field(gt=0, lt=1)] = 0.5  # with bits: when the mask stops to move


class ScoresSection(TrainingSection):
    """Methods hydra and harp."""

    weights: Trained = "adversarial"
    cost: dict[str, Positive] | None = None  # harp: of one group of each layer; null: all alike


class LotterySection(TrainingSection):
    """Method lottery. Every round, and the ticket's last training, has this number of epochs."""

    rounds: Count | None = None  # 1 is one-shot; null removes 20% of the rest in each round
    rewind: Annotated[int, Field(ge=0)] = 0  # in optimizer steps of the first training
    controls: tuple[Literal["random", "reinit"], ...] = ("random", "reinit")


class GradualSection(TrainingSection):
    """Method gradual: one training, during which the network becomes sparse."""

    weights: Weights = "random"  # weights at the start of the training
    # Masks are updated between these fractions of the training, with `every` steps between updates.
    start: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    stop: Annotated[Number, Field(gt=0, le=1)] = 0.75
    every: Count | None = None  # null: 100 updates in all


class L0Section(TrainingSection):
    """Method l0: weights and gates of their groups are trained together."""

    optimizer: OptimizerSection = OptimizerSection(name="adam", lr=1e-2, weight_decay=0.0)
    weights: Weights = "adversarial"  # weights at the start of the training
    decay: NonNegative = 5e-4  # μ of the expected L2 norm
    kept: Annotated[Number, Field(gt=0, lt=1)] = 0.9  # P(m ≠ 0) at the start
    spread: NonNegative = 5.0  # spread of first scores by rank of norm; 0 as in the paper
    gate_lr: Positive = 10.0  # the learning rate of the scores, relative to that of the weights


class TwinSection(TrainingSection):
    """Method twin: a training from random weights, each of which is a product of two."""

    cut: Annotated[Number, Field(gt=0, lt=1)] = 0.1  # fraction of the epochs before the one cut


class SparseSection(TrainingSection):
    """Methods static, set, rigl, itop, mest, mest_ems, granet, hard_thresholding, flyingbird and
    flyingbird_plus: sparse training. null: the number of the method's row."""

    weights: Weights = "random"  # weights at the start of the training
    #: null: search.allocate, or at its default (layer) that of the method
    allocate: Literal["layer", "row", "global", "erk", "igq"] | None = None
    first: Density | None = None  # density at the start, and the fraction of the training at which
    ramp: Density | None = None  # that of the end is reached
    drop: Share | None = None  # ζ at the start and at the end
    drop_end: Share | None = None
    grow: Literal["random", "gradient"] | None = None
    more_drop: Share | None = None  # Flying Bird+: shares of what is dropped
    more_growth: Share | None = None
    start: Share | None = None  # fractions of the training between which masks are updated
    stop: Share | None = None
    every: Count | None = None  # number of steps between two updates


class LanguageSection(TrainingSection):
    """Method language: the search for masks. The ticket is trained as `finetune` says."""

    epochs: Count = 20
    optimizer: OptimizerSection = OptimizerSection(
        name="adamw", lr=0.1, weight_decay=1e-6, schedule="linear"
    )
    weights: Trained = "natural"  # the dense baseline whose weights are masked
    granularity: Literal["weight", "head", "neuron", "layer"] = "weight"
    penalty: NonNegative = 0.5  # λ of the expected share of kept weights
    #: P(m ≠ 0) at the start; null: such that the expected density at the start is the final one
    kept: Annotated[Number, Field(gt=0, lt=1)] | None = 0.9
    spread: NonNegative = 0.0  # spread of first scores by rank of magnitude; 0 as in the paper
    #: whether the ticket starts from the pre-trained weights, or else from those that were masked
    reset: bool = True
    #: training of the ticket and its controls; none (with reset: false): nothing is trained
    finetune: Literal["natural", "robust", "none"] = "natural"
    controls: tuple[Literal["random", "reinit"], ...] = ("random", "reinit")


class OneShotSection(Section):
    """Methods magnitude, random, snip, grasp, obd and obd_ggn."""

    weights: Weights = "adversarial"
    batches: Count = 4  # number of batches for criteria that need data


class WoodfisherSection(Section):
    """Method woodfisher: no training."""

    weights: Trained = "adversarial"  # the dense baseline that is pruned
    gradients: Count = 128  # number of gradients of the empirical Fisher matrix
    examples: Count = 1  # number of training examples in each of them
    block: Count | None = None  # consecutive weights of a layer; null: the whole layer
    damping: Positive = 1e-3  # λ on the diagonal of the matrix
    steps: Count = 16  # number of steps in which the density falls
    estimates: Count = 1  # how often the matrix is estimated anew, for so many steps each


class LayerwiseSection(Section):
    """Method layerwise, and what wanda, sparsegpt, owl, owl_wanda and obs share: no training."""

    weights: Trained = "adversarial"  # the dense baseline that is pruned
    solver: str = "admm"  # only layerwise: a name in `robustprune.layerwise.SOLVERS`
    #: options of that solver, such as {rho: 0.1, ridge: 0.01}
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    target: Literal["own", "dense", "residual"] = "dense"  # the target output of each layer
    #: "fisher": squares of outputs count by how much the cross-entropy feels them
    outputs: Literal["alike", "fisher"] = "alike"
    batches: Count | None = None  # number of training batches; null means all of them
    #: share of the examples that stay clean; `inner` attacks the others; null means 0.5
    clean: Annotated[Number, Field(ge=0, le=1)] | None = None
    sweeps: Count = 1  # walks over the layers; from the second on, the pruned network is attacked
    bias: bool = False  # whether biases are refitted, too


class CausalSection(Section):
    """Causal language models, for tasks of running text and model causal."""

    patterns: tuple[str, ...] = ()  # patterns N:M that are tried besides those of `search`
    field: str = "text"  # field of JSON lines, or column of a table, with the text
    window: Annotated[int, Field(ge=2)] = 512  # tokens of a window that is measured, BOS included
    windows: Count | None = None  # number of windows that are measured, from the first; null: all
    calibration: Count = 128  # number of windows, drawn by the seed, on which layers are solved
    calibration_window: Annotated[int, Field(ge=2)] = 256  # their tokens, BOS included
    batch_size: Count = 16  # windows at a time
    offload: bool = False  # only one block is on the device at a time, while layers are solved
    # Radius of the displacement of a window's word embeddings, in ‖·‖_F, under which perplexity is
    # measured as well, for the dense network and those of the first level; null: no attack.
    eps: Positive | None = None
    steps: Count = 10  # PGD
    attacked: Count = 16  # number of windows that are attacked, from the first
    prompt: Count = 24  # tokens of the test text that each network goes on with, for the report
    continuation: Annotated[int, Field(ge=0)] = 60  # tokens that it adds; 0 for none
    # Tokens in which the speed of generation is timed, of one text, beside the dense network, and
    # with layers in CSR where that is faster; 0 for no timing.
    decode: Annotated[int, Field(ge=0)] = 0


class FinetuneSection(TrainingSection):
    modes: tuple[Literal["inherit", "reinit", "full"], ...] = ("inherit", "reinit")
    init: Literal["kaiming_normal", "kaiming_uniform", "signed_kaiming_constant"] = "kaiming_normal"


class Sections(Section):
    """All sections of a config."""

    name: str = Field(default="rst_ecg200", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    task: TaskSection = TaskSection()
    model: ModelSection = ModelSection()
    threat: ThreatSection = ThreatSection()
    inner: InnerSection = InnerSection()
    natural: TrainingSection = TrainingSection()  # dense baseline on clean examples
    adversarial: TrainingSection = TrainingSection()  # dense baseline under attack
    objective: ObjectiveSection = ObjectiveSection()
    selection: SelectionSection = SelectionSection()
    loop: LoopSection = LoopSection()
    search: SearchSection = SearchSection()
    admm: AdmmSection = AdmmSection()
    scores: ScoresSection = ScoresSection()
    lottery: LotterySection = LotterySection()
    gradual: GradualSection = GradualSection()
    l0: L0Section = L0Section()
    twin: TwinSection = TwinSection()
    sparse: SparseSection = SparseSection()
    language: LanguageSection = LanguageSection()
    one_shot: OneShotSection = OneShotSection()
    woodfisher: WoodfisherSection = WoodfisherSection()
    layerwise: LayerwiseSection = LayerwiseSection()
    causal: CausalSection = CausalSection()
    finetune: FinetuneSection = FinetuneSection()
    evaluation: EvaluationSection = EvaluationSection()
    certify: CertifySection = CertifySection()
    deploy: DeploySection = DeploySection()
    trust: TrustSection = TrustSection()
