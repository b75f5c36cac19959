"""Deterministic lower bounds on margins and radii. (``attacks`` gives upper bounds.)

``margin_bounds``, ``certified``, ``certified_radius`` and ``output_bounds`` certify in float64 and
account for rounding errors. ``interval_margins`` and ``crown_ibp_margins`` are differentiable, for
training. Use ``trace`` once for a model that is bounded often.
"""

from robustprune.bounds.checks import METHODS, BoundMethod
from robustprune.bounds.graph import BoundGraph, trace
from robustprune.bounds.margins import certified, margin_bounds, output_bounds
from robustprune.bounds.radius import certified_radius
from robustprune.bounds.training import crown_ibp_margins, interval_margins

__all__ = [
    "METHODS",
    "BoundGraph",
    "BoundMethod",
    "certified",
    "certified_radius",
    "crown_ibp_margins",
    "interval_margins",
    "margin_bounds",
    "output_bounds",
    "trace",
]
