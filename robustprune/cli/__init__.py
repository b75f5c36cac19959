"""The command line: it calls the pipeline and reports errors in one clear line.

Each command has one file; `scripts.py` has the entry points of `scripts/*.py`.
"""

from robustprune.cli.main import main
from robustprune.cli.scripts import (
    COMPARE_METHODS,
    FIND_LOTTERY,
    FIND_PLM,
    FIND_RST,
    LOWDATA_TIMESERIES,
    PRUNE_ADMM,
    PRUNE_LAYERWISE,
    PRUNE_LM,
    PRUNE_ONE_SHOT,
    PRUNE_SCORES,
    TRAIN_SPARSE,
    Script,
    run_script,
)

__all__ = [
    "COMPARE_METHODS",
    "FIND_LOTTERY",
    "FIND_PLM",
    "FIND_RST",
    "LOWDATA_TIMESERIES",
    "PRUNE_ADMM",
    "PRUNE_LAYERWISE",
    "PRUNE_LM",
    "PRUNE_ONE_SHOT",
    "PRUNE_SCORES",
    "TRAIN_SPARSE",
    "Script",
    "main",
    "run_script",
]
