"""Find, train, measure and certify sparse networks that stay correct under attack.

The functions that most people need are here, so that `dir(robustprune)` lists them. Each is
imported from its package when it is first used, because importing torch takes seconds.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: package -> the names that are found here; editors and type checkers read `__init__.pyi`
_NAMES = {
    "bounds": "certified certified_radius margin_bounds",
    "certify": "Certificate read_certificates verify_certificates",
    "deploy": "export_onnx load_slim prune_channels save_slim slim sparsify",
    "layerwise": "prune_layerwise",
    "measure": "attack_set compare_cost evaluate nearest_adversarial",
    "minmax": "Adversarial Checkpoint Gaussian Natural OptimizerSpec Trades Validation log_epochs "
    "train",
    "report": "plot_ticket write_report",
    "search": "Ticket find_language_ticket find_lottery_ticket find_scratch_ticket finetune_ticket "
    "prune_admm prune_gradual prune_l0 prune_one_shot prune_scores prune_twin "
    "prune_woodfisher train_sparse",
    "sparsity": "MaskSet apply_masks bake coverage maskable_layers",
}
#: name -> the package that has it
_HOME = {name: package for package, names in _NAMES.items() for name in names.split()}
_PACKAGES = (*_NAMES, "lm", "selection")

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_PACKAGES})
