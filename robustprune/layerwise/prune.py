"""Pruning without training: walk through the network and solve each layer's least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks import Attack
from robustprune.layerwise.calibrate import After, Pair
from robustprune.layerwise.checks import (
    SolverLike,
    check_batch_norm,
    check_options,
    check_structure,
    checked_solver,
    masked_layers,
    needed,
    route_of,
    supported,
    without_cache,
)
from robustprune.layerwise.fisher import Outputs, output_weights
from robustprune.layerwise.inputs import attacked, calibration_batches
from robustprune.layerwise.norms import BatchNorm, estimate
from robustprune.layerwise.ratios import Ratios, check_ratios, layer_counts
from robustprune.layerwise.resume import Solved
from robustprune.layerwise.rounding import with_rounding
from robustprune.layerwise.solve import Plan, one_walk
from robustprune.layerwise.solvers import SOLVERS
from robustprune.layerwise.structures import Structure, last_columns, with_rows
from robustprune.layerwise.targets import TargetName
from robustprune.minmax import Batches, Checkpoint, History, known_by_its_call
from robustprune.search.ticket import Ticket, copy_on, device_of, refuse_others
from robustprune.sparsity import (
    MaskSet,
    check_density,
    check_pattern,
    group_weight,
    maskable_layers,
)
from robustprune.sparsity.plain import copy_of


@known_by_its_call
def prune_layerwise(
    model: nn.Module,
    loader: Batches,
    *,
    density: float | None = None,
    attack: Attack | None = None,
    pattern: str = "element",
    allocate: Ratios = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    structure: Structure = "weight",
    masks: MaskSet | None = None,
    solver: SolverLike = "admm",
    target: TargetName = "dense",
    after: After = "layer",
    outputs: Outputs = "alike",
    batches: int | None = None,
    clean: float | None = None,
    sweeps: int = 1,
    bias: bool = False,
    quantise: int | None = None,
    batch_norm: BatchNorm = "keep",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    offload: bool = False,
    tokens: Callable[[Tensor], Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    **options: Any,
) -> Ticket:
    """Prune a trained network layer by layer. Each layer is the least-squares problem

        min over Ŵ in S of ‖Ŵ X̂ − T‖²_F

    of `robustprune.layerwise.problem` on calibration data; nothing is trained. Layers are visited
    in the order in which the network runs; X̂ is a layer's input in the network pruned so far.
    Linear layers, convolutions and the Conv1D of transformers are pruned; a warning names other
    layers.

    Args:
        model: a trained network, in any mode; it is copied, never changed, and run in eval mode.
        loader: an iterable of (x, y) batches, or, without an attack, of dicts with `input_ids`,
            whose `attention_mask` says which tokens count. Its inputs are kept on the CPU.
        density: the fraction of the groups to keep, in (0, 1]; exactly one of `density` and
            `masks` is needed.
        attack: the attack that makes the calibration inputs, against the dense network; None for
            clean inputs.
        pattern, dense: as in `find_scratch_ticket`.
        allocate: as in `find_scratch_ticket`; also "owl", and "global" by scores of the inputs, see
            `layer_counts`.
        seed: the seed that draws which examples are attacked.
        structure: "weight", or "head" or "neuron" of a transformer, of which the fraction `density`
            of each layer is kept, see `robustprune.layerwise.structures`.
        masks: masks found elsewhere, for whose weights new values are found; solver "refit" or
            another one that takes a mask. Layers without a mask stay as they are.
        solver: a name in `robustprune.layerwise.solvers.SOLVERS`, or a function
            (problem, **options) -> Solution.
        target: "own", "dense" or "residual": see `robustprune.layerwise.targets`.
        after: "layer" takes X̂ after all layers before it are pruned; "block" after the blocks
            before its own are pruned, as in the code of Wanda, SparseGPT and ADMM. A block is a
            module of a chain, such as a layer of a transformer.
        outputs: "alike" counts the squares of all outputs of a layer alike; "fisher" by how much
            the cross-entropy feels them (`robustprune.layerwise.fisher`), also in "global".
        batches: number of batches to take from the loader; None for all.
        clean: share of examples that stay clean under an attack, in [0, 1]; None is 0.5.
        sweeps: number of walks over the layers. From the second on, the attack is on the network
            that the previous walk returned.
        bias: whether biases are refitted to the new weights.
        quantise: number of bits of a weight, 2 to 8, see `robustprune.layerwise.rounding`; the
            network holds the rounded values in its own dtype. None does not round.
        batch_norm: "estimate" computes the statistics of batch norms anew after each walk.
        dtype: dtype of the products and of the solver, float64 or float32; sums are in float64.
        device: the device of the computation; None for that of the model.
        offload: whether the network stays where it is and only one module of a chain at a time,
            such as a layer of a transformer, is on `device`: for networks that don't fit.
        tokens: function that returns which tokens of x count, (N, T) boolean, for sentences packed
            in x: `lambda x: unpack_tokens(x).attended`. None counts all.
        checkpoint: where solved layers are kept (see `robustprune.layerwise.resume`), so that the
            same call goes on there; only for one sweep.
        options: options of the solver.

    Returns:
        Ticket(masks, model, history): masks in the order of the walk, and a record for each layer
        in the same order, whose loss and "relative_error" are ‖Ŵ X̂ − T‖² / ‖T‖².

    Raises:
        ValueError: an option is out of range, unknown or without effect, there is no batch or
            nothing to prune, or activations are not finite.
    """
    if isinstance(solver, str) and "mask" in options:
        raise ValueError(
            "`mask` is the mask of one layer; give `masks`, a MaskSet with a mask for each layer"
        )
    check_structure(structure, pattern)
    check_batch_norm(model, batch_norm)
    if masks is None:
        check_pattern(pattern, check_density(needed(density)))
    else:
        refuse_others(
            "masks say what is kept", density=(density, None), pattern=(pattern, "element"),
            allocate=(allocate, "layer"), dense=(tuple(dense), ()), structure=(structure, "weight"),
        )  # fmt: skip
    solve = checked_solver(
        solver,
        options if masks is None else {**options, "mask": masks},
        pattern if structure == "weight" else structure,
    )
    if quantise is not None:
        solve = with_rounding(solver, solve, quantise)
    check_options(target, after, outputs, attack, batches, clean, sweeps, dtype)
    scaled = not isinstance(solver, str) or SOLVERS[solver].needs_cross
    if outputs != "alike" and not scaled and allocate != "global":
        raise ValueError(
            f"outputs={outputs!r} has no effect on solver {solver!r}, which has no squares of "
            "outputs; leave it at 'alike'"
        )
    if offload and device is None:
        raise ValueError("offload=True needs the device that modules go to, one after the other")
    network = copy_on(model, None if offload else device)
    modes = {name: module.training for name, module in network.named_modules()}
    network.eval()
    uncached = without_cache(network)
    where = device_of(network)
    data = calibration_batches(network, loader, batches, device=where, attack=attack, tokens=tokens)
    layers = maskable_layers(network, dense=dense)
    patterns = dict.fromkeys(layers, pattern)
    if structure != "weight":
        patterns = last_columns(network, layers, structure)
        layers = {name: layers[name] for name in patterns}
    if masks is not None:
        layers = masked_layers(layers, masks)
    route = route_of(network, layers, data[0], where)
    layers = supported(network, layers, route)
    by_row = allocate == "row"
    groups = {
        name: group_weight(layer, patterns[name], by_row=by_row) for name, layer in layers.items()
    }
    if density is not None:
        check_ratios(allocate, groups, density)
    solved = Solved(checkpoint, sweeps)
    pruned, found = network, {}  # type: tuple[nn.Module, dict[str, Tensor]]
    history = History()
    for _ in range(sweeps):
        taken, share = data, 0.5 if clean is None else clean
        if attack is not None:
            taken = attacked(pruned, data, attack, clean=share, seed=seed, device=where)
        felt: dict[str, Tensor] = {}
        if outputs == "fisher":
            felt = output_weights(network, layers, taken, device=where, seed=seed)
        if density is None:
            counts = {layer.name: layer.kept for layer in cast(MaskSet, masks).layers()}
        else:
            counts = layer_counts(
                network, layers, groups, taken,
                density=density, allocate=allocate, felt=felt, device=where,
            )  # fmt: skip
        pruned = copy_of(network)
        plan = Plan(solve, options, groups, counts, bias, scaled, masks, felt)
        lent = torch.device(device) if offload and device is not None else where
        pair = Pair(network, pruned, groups, taken, where, lent)
        found = one_walk(pair, route, plan, (target, after), dtype, history, solved)
        if batch_norm == "estimate":
            estimate(pruned, taken, where)
    if structure != "weight":
        found = with_rows(pruned, found, structure)
    for name, module in pruned.named_modules():
        module.training = modes[name]
        if name in uncached:
            cast(Any, module.config).use_cache = True
    return Ticket(MaskSet(found), pruned, history)
