"""What a certificate needs of the last nonlinearity before the logits.

A lower bound of ⟨c, relu(z)⟩ uses the line below the curve where a coefficient c is positive, and
the line above it where c is negative. Every line α z with 0 ≤ α ≤ 1 lies below relu(z), whatever is
known of z. So an entry whose coefficients are all positive needs no bounds of its input, and only
the choice of its α decides how tight the bound is.
"""

from __future__ import annotations

from torch import Tensor

from robustprune.bounds.activations import Rectifier
from robustprune.bounds.affine import Affine
from robustprune.bounds.interval import Sweep
from robustprune.bounds.program import Program

#: the largest number of coefficients of an example that are computed only to save work later
LARGEST = 2**21


def last_rectifier(program: Program) -> int | None:
    """Return the last node before the logits that is not affine, if it is a ReLU whose input has no
    other use; else None."""
    nodes, position = program.nodes, program.output
    while isinstance(nodes[position].op, Affine):
        position = nodes[position].inputs[0]
    if not isinstance(nodes[position].op, Rectifier):
        return None
    source = nodes[position].inputs[0]
    uses = sum(other.inputs.count(source) for other in nodes)
    return position if uses == 1 else None


def from_above(program: Program, A: Tensor, position: int) -> Tensor | None:
    """Return for which entries of the node ``position`` a bound of ⟨A_ns, logits⟩ needs a line
    above, (N or 1, *shape).

    Only affine nodes may follow. None means all of them, and is returned where the coefficients
    would be more than LARGEST numbers for an example.
    """
    if A.shape[1] * program.widest(program.output) > LARGEST:
        return None
    at = program.output
    while at != position:
        op = program.nodes[at].op
        assert isinstance(op, Affine)
        (A,), _ = op.backward(A)
        (at,) = program.nodes[at].inputs
    return (A < 0).any(1)


def slopes_at_centre(known: Sweep, position: int) -> dict[int, Tensor]:
    """Return the choice α = 1 where the input of a ReLU is positive at the centre of the set, else
    the slope of its other half (see ``activations.Lines``)."""
    op = known.program.nodes[position].op
    assert isinstance(op, Rectifier)
    z = known.program.values(known.inputs.x)[known.program.nodes[position].inputs[0]]
    return {position: (z > 0).to(z).clamp(min=op.slope).unsqueeze(1)}
