"""Recurrent layers (LSTM, GRU and RNN), unrolled over the steps of a sequence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprune.bounds import affine, layers
from robustprune.bounds.precision import Arithmetic, sum_of_products
from robustprune.bounds.program import Program, Value
from robustprune.bounds.shapes import cat, chunk, select, stack
from robustprune.bounds.tensors import Unsupported, add, mul, scaled, sub


class Weights(NamedTuple):
    """The weights of one layer in one direction: of the input, of the state, and both biases."""

    own: Tensor
    fed: Tensor
    bias: Tensor | None
    state_bias: Tensor | None


def recurrent(p: Program, m: Any, input: Value, hx: Any = None) -> tuple[Value, Any]:
    """Return what ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` returns in eval mode: (N, L, H) and the
    last state. It begins with zeros and has batch_first=True."""
    if not m.batch_first:
        raise Unsupported("batch_first=False; the batch must be the first dimension")
    if hx is not None:
        raise Unsupported("a first state; leave it out, so that it is 0")
    if input.sample.dim() != 3:
        raise Unsupported("an input without a batch; it must be (N, L, E)")
    directions = 2 if m.bidirectional else 1
    last: list[tuple[Value, ...]] = []
    for layer in range(m.num_layers):
        sides = []
        for back in range(directions):
            steps = [select(p, input, 1, t) for t in range(input.sample.shape[1])]
            weights = _weights(m, layer, back)
            outs, state = _unrolled(p, m, steps[::-1] if back else steps, weights)
            sides.append(stack(p, outs[::-1] if back else outs, 1))
            last.append(state)
        input = sides[0] if directions == 1 else cat(p, sides, 2)
    states = [stack(p, list(parts), 1) for parts in zip(*last, strict=True)]
    return input, _last_state(p, states)


def _last_state(p: Program, states: list[Value]) -> Any:
    """Return h, or (h, c) of an LSTM, as a value whose items are those of (layers, N, H)."""
    items = [LayersFirst(p, state) for state in states]
    return items[0] if len(items) == 1 else tuple(items)


class LayersFirst:
    """A state (layers, N, H), of which only one layer at a time can be used: state[-1]."""

    def __init__(self, p: Program, state: Value) -> None:
        self.program, self.state = p, state

    def __getitem__(self, index: Any) -> Value:
        if not isinstance(index, int):
            raise Unsupported(f"the last states {index}; take one layer, such as h[-1]")
        return select(self.program, self.state, 1, index)


def _weights(m: Any, layer: int, back: int) -> Weights:
    if getattr(m, "proj_size", 0):
        raise Unsupported(f"proj_size={m.proj_size}; leave it out")
    end = f"_l{layer}{'_reverse' if back else ''}"
    biases = [getattr(m, f"bias_{kind}{end}") if m.bias else None for kind in ("ih", "hh")]
    return Weights(getattr(m, f"weight_ih{end}"), getattr(m, f"weight_hh{end}"), *biases)


def _unrolled(
    p: Program, m: Any, steps: list[Value], weights: Weights
) -> tuple[list[Value], tuple[Value, ...]]:
    """Return the results of all steps, (N, H), and the last state."""
    cell = {"LSTM": _lstm, "GRU": _gru}.get(m.mode, _rnn)
    outs: list[Value] = []
    state: tuple[Value, ...] = ()
    for z in steps:
        state = cell(p, m, z, weights, state)
        outs.append(state[0])
    return outs, state


def _sums(
    p: Program, z: Value, weights: Weights, state: tuple[Value, ...], rows: slice = slice(None)
) -> Value:
    """Return W z + b + V h + c for some rows, with the errors of one sum in any order.

    At the first step, h is 0.
    """
    own, fed = p.cast(weights.own)[rows], p.cast(weights.fed)[rows]
    biases = [p.cast(bias)[rows] for bias in weights[2:] if bias is not None]
    both = torch.cat((own, fed), 1) if state else own
    input = cat(p, [z, state[0]], 1) if state else z
    shape = (len(own),)
    how = sum_of_products(torch.cat((own, fed), 1), None) if p.precision else None
    if how is not None:
        terms = how.terms + len(biases)
        how = Arithmetic(terms, 4 * terms + 8)
    op = affine.linear(both, None, shape, how)
    if biases:
        size = sum(b.abs() for b in biases)
        bias, size = affine.whole_bias(sum(biases), shape, size=size)
        op = replace(op, bias=bias, bias_size=size)
    return p.add(op, input)


def _rnn(
    p: Program, m: Any, z: Value, weights: Weights, state: tuple[Value, ...]
) -> tuple[Value, ...]:
    total = _sums(p, z, weights, state)
    return (layers.relu(p, total) if m.mode == "RNN_RELU" else layers.tanh(p, total),)


def _lstm(
    p: Program, m: Any, z: Value, weights: Weights, state: tuple[Value, ...]
) -> tuple[Value, ...]:
    entering, forgetting, new, leaving = chunk(p, _sums(p, z, weights, state), 4, 1)
    cell = mul(p, layers.sigmoid(p, entering), layers.tanh(p, new))
    if state:
        cell = add(p, mul(p, layers.sigmoid(p, forgetting), state[1]), cell)
    return mul(p, layers.sigmoid(p, leaving), layers.tanh(p, cell)), cell


def _gru(
    p: Program, m: Any, z: Value, weights: Weights, state: tuple[Value, ...]
) -> tuple[Value, ...]:
    size = m.hidden_size
    gates = layers.sigmoid(p, _sums(p, z, weights, state, slice(2 * size)))
    reset, update = chunk(p, gates, 2, 1)
    rest = slice(2 * size, None)
    own, fed, bias, state_bias = (None if t is None else t[rest] for t in weights)
    assert own is not None
    assert fed is not None
    if state:
        kept = mul(p, reset, layers.linear(p, state[0], fed, state_bias))
    else:
        kept = scaled(p, reset, 0 if state_bias is None else state_bias, None)
    new = layers.tanh(p, add(p, layers.linear(p, z, own, bias), kept))
    if not state:
        return (mul(p, scaled(p, update, -1, 1), new),)
    # (1 - u) n + u h = n + u (h - n), in which u is used once
    return (add(p, new, mul(p, update, sub(p, state[0], new))),)
