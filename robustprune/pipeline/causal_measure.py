"""Measure one network of a run on a causal language model."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from robustprune.deploy import CSRLinear, sparsify
from robustprune.lm import Perplexity, adversarial_perplexity, decode_speed, perplexity
from robustprune.pipeline.causal_metrics import perplexity_of
from robustprune.pipeline.causal_run import CausalRun, Pruned, levels_of
from robustprune.run.terminal import printable


def measured(run: CausalRun, pruned: Pruned) -> dict[str, Any]:
    """Measure a network, or read what was measured: losses by window, clean and attacked, and how
    it goes on with the text."""
    file = f"measured/{pruned.name}.json"
    if not run.folder.has(file):
        pruned.network.to(run.device)
        section = run.config.causal
        found: dict[str, Any] = {
            "tokens": run.evaluation.shape[1] - 1,
            "losses": _losses(
                perplexity(pruned.network, run.evaluation, batch_size=section.batch_size)
            ),
        }
        attack = run.attack()
        if attack is not None and pruned.level in (None, levels_of(run.config)[0]):
            found["attacked"] = _losses(
                adversarial_perplexity(
                    pruned.network,
                    run.evaluation[: section.attacked],
                    attack,
                    bos=run.language.bos,
                    batch_size=section.batch_size,
                )
            )
        if section.continuation:
            found["continuation"] = continued(
                run.language.tokenizer,
                pruned.network,
                run.evaluation[0, : section.prompt],
                section.continuation,
            )
        if section.decode and pruned.level is not None:
            found["speed"] = _speed(run, pruned.network)
        if run.config.causal.offload:
            pruned.network.to("cpu")
        run.folder.write_json(file, found)
        run.folder.log("measured", model=pruned.name)
        if not run.quiet:
            value = perplexity_of(found, "losses").value
            print(printable(f"{pruned.title}: perplexity {value:.4g}"), file=sys.stderr)
    content = run.folder.read_json(file)
    if not isinstance(content, dict) or len(content.get("losses", ())) != len(run.evaluation):
        raise ValueError(
            f"{run.folder.path / file} is not what this run measures; delete it to start over"
        )
    return content


def _speed(run: CausalRun, network: nn.Module) -> dict[str, Any]:
    """Time generation by a pruned network, with layers in CSR where that is faster, and by the
    dense one in turns. A network that can't have such layers is timed as it is, with a warning."""
    tokens = run.config.causal.decode
    try:
        sparse = sparsify(network, None, torch.ones(1, 1, dtype=torch.long, device=run.device))
    except ValueError as error:
        warnings.warn(f"speed is measured without layers in CSR: {error}", stacklevel=2)
        sparse = network
    dense = run.language.network.to(run.device)
    found = decode_speed({"dense": dense, "pruned": sparse}, prompt=2, tokens=tokens)
    if run.config.causal.offload:
        dense.to("cpu")
    return {
        "tokens_per_second": found["pruned"].fastest,
        "dense": found["dense"].fastest,
        "sparse_layers": sum(isinstance(module, CSRLinear) for module in sparse.modules()),
        "threads": torch.get_num_threads(),
        "device": run.device.type,
    }


def seconds_of_measuring(run: CausalRun, networks: int) -> float:
    """Estimate the time of so many perplexities from one batch of windows."""
    size = run.config.causal.batch_size
    batch = run.evaluation[:size]
    perplexity(run.language.network, batch[:1])  # first calls are slower
    began = time.perf_counter()
    perplexity(run.language.network, batch, batch_size=size)
    return (time.perf_counter() - began) * len(run.evaluation) / len(batch) * networks


def _losses(found: Perplexity) -> list[float]:
    return cast("list[float]", found.losses.tolist())


@torch.no_grad()
def continued(tokenizer: Any, network: nn.Module, prompt: Tensor, number: int) -> str:
    """Return the text of the `number` tokens with which a network goes on, each of which is the
    most probable one."""
    where = next(network.parameters()).device
    ids = prompt.unsqueeze(0).to(where)
    with evaluating(network):
        whole = cast(Any, network).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=number,
            do_sample=False,
            pad_token_id=int(prompt[0]),
        )
    text: str = tokenizer.decode(whole[0, len(prompt) :], skip_special_tokens=True)
    return text
