"""Prompts of every layer, which are trained where the weights of a pruned network are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer
from typing_extensions import Unpack

from attacks import Attack
from attacks.modes import evaluating
from robustprune.lm.cache import attentions_of, name_of_cache, refuse_windows
from robustprune.minmax import (
    Batches,
    LoopOptions,
    Objective,
    OptimizerLike,
    OptimizerSpec,
    known_by_its_call,
    train,
)
from robustprune.search.ticket import Ticket, chosen_objective, copy_on
from robustprune.sparsity import MaskSet, apportion, transformer_blocks

ADAM = OptimizerSpec(name="adam", lr=1e-2, weight_decay=0.0)


class PromptLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer, of which the first ones are its prompt.

    Args:
        keys, values: (H, L, d) of the prompt.
        room: the largest L of all layers; the model makes one mask for all of them.
    """

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prompt, self.room = (keys, values), room

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the tokens of a call and return all keys and values, (N, H, L + n, d)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (
                part.to(key_states).expand(len(key_states), -1, -1, -1) for part in self.prompt
            )
        keys, values = super().update(key_states, value_states)
        return keys, values

    def get_seq_length(self) -> int:
        """Return the number of tokens seen so far, with as many of a prompt as the longest has."""
        length = self.prompt[0].shape[1]
        seen = length if self.keys is None else self.keys.shape[-2]
        return self.room - length + int(seen)


class Prompted(nn.Module):
    """A causal language model with a prompt in front of the text in every layer (a prefix).

    Each attention sees L keys and values before those of the text (Li & Liang 2021, arXiv
    2101.00190, Eq. 3; Liu et al. 2022, arXiv 2110.07602), and L may differ between layers. Tokens
    of the text keep their places: the first one has place 0.

    Args:
        network: a causal language model of transformers.
        keys, values: for each layer (H, L, d), with H heads of keys.

    Raises:
        ValueError: a layer attends through a sliding window, or the number of prompts is wrong.
    """

    def __init__(
        self, network: nn.Module, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> None:
        super().__init__()
        config: Any = network.config
        refuse_windows(config.get_text_config(decoder=True))
        attentions = attentions_of(network)
        if len(attentions) != len(keys):
            raise ValueError(
                f"{len(keys)} prompts are given for the {len(attentions)} layers of attention of "
                f"{type(network).__name__}"
            )
        self.network = network
        self.keys = nn.ParameterList([nn.Parameter(part.detach().clone()) for part in keys])
        self.values = nn.ParameterList([nn.Parameter(part.detach().clone()) for part in values])
        for module in attentions:
            module.register_forward_pre_hook(_fit_mask, with_kwargs=True)

    @property
    def config(self) -> Any:
        """The config of the network."""
        return self.network.config

    def get_input_embeddings(self) -> nn.Module:
        """Return the network's table of word embeddings."""
        get: Any = self.network.get_input_embeddings
        table: nn.Module = get()
        return table

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> Any:
        """Return what the network returns for whole windows, (N, T) or (N, T, D)."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("give input_ids or inputs_embeds")
        room = max(part.shape[1] for part in self.keys)
        layers: list[Any] = [
            PromptLayer(k, v, room) for k, v in zip(self.keys, self.values, strict=True)
        ]
        places = torch.arange(given.shape[1], device=given.device).unsqueeze(0)
        return self.network(
            input_ids=input_ids, inputs_embeds=inputs_embeds, position_ids=places, use_cache=True,
            **{name_of_cache(self.network): Cache(layers=layers)},
        )  # fmt: skip


def _fit_mask(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Cut the mask, which has room for the longest prompt, to the prompt of this layer."""
    cache = next((v for v in (*kwargs.values(), *args) if isinstance(v, Cache)), None)
    mask = kwargs.get("attention_mask")
    layer = None if cache is None else cache.layers[cast(int, module.layer_idx)]
    if not isinstance(layer, PromptLayer) or mask is None:
        return None
    return args, {**kwargs, "attention_mask": mask[..., layer.room - layer.prompt[0].shape[1] :]}


def prompt_lengths(
    network: nn.Module, masks: MaskSet, tokens: int, lengths: Literal["sparsity", "alike"]
) -> list[int]:
    """Return the length of the prompt of each layer; together `tokens` times their number.

    With "sparsity" they are in proportion to the share of the layer's weights that is pruned, and
    at least 1 (SPT; Zhang et al. 2026, PMLR 328).
    """
    names = [block.name for block in transformer_blocks(network)]
    if lengths == "alike":
        return [tokens] * len(names)
    shares = {}
    for name in names:
        own = [mask for key, mask in masks.items() if key.startswith(f"{name}.")]
        total = sum(mask.numel() for mask in own)
        shares[name] = 1 - sum(int(mask.sum()) for mask in own) / total if total else 0.0
    whole = tokens * len(names)
    found = apportion(shares, dict.fromkeys(names, whole), whole)
    return [found[name] for name in names]


@known_by_its_call
def tune_prompts(
    ticket: Ticket,
    loader: Batches,
    objective: Objective | None = None,
    *,
    attack: Attack | None = None,
    epochs: int = 1,
    optimizer: OptimizerLike = ADAM,
    tokens: int = 16,
    lengths: Literal["sparsity", "alike"] = "sparsity",
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train a prompt for each layer of a pruned language model, and none of its weights.

    The network stays exactly as sparse as it is; the prompts are some weights besides. They begin
    with the keys and values of the first tokens of the first batch, as if these stood before the
    text.

    Args:
        ticket: a pruned causal language model of transformers with its masks.
        loader: batches (x, y) as `next_token_batches` makes them.
        objective, attack: the loss to minimise; give exactly one of them.
        tokens: the mean length of a layer's prompt, at least 1 and at most that of a window.
        lengths: "sparsity", in proportion to what each layer has lost, or "alike"; see
            `prompt_lengths`.

    Returns:
        A Ticket whose network is `Prompted`, with the masks of the given one.

    Raises:
        ValueError: an option is out of range, or the model is none that takes prompts.
        TrainingDiverged: the loss became non-finite.
    """
    if lengths not in ("sparsity", "alike"):
        raise ValueError(f"lengths={lengths!r} is unknown; choose sparsity or alike")
    objective = chosen_objective(attack, objective)
    network = copy_on(ticket.model, loop.get("device")).requires_grad_(False)
    first = _first_tokens(loader)
    if first.ndim != 2 or first.is_floating_point():
        raise ValueError(
            f"prompts are trained on token numbers (N, T), not on x of shape {tuple(first.shape)}; "
            "take next_token_batches"
        )
    if not 1 <= tokens <= first.shape[1]:
        raise ValueError(
            f"tokens={tokens} must be at least 1 and at most the {first.shape[1]} of a window"
        )
    each = prompt_lengths(network, ticket.masks, tokens, lengths)
    keys, values = _first_prompts(network, first[:1], each)
    model = Prompted(network, keys, values)
    loop.setdefault("title", f"prompts of {tokens} tokens")
    history = train(
        model, loader, objective, epochs=epochs, optimizer=optimizer,
        parameters=[*model.keys, *model.values], **loop,
    )  # fmt: skip
    masks = MaskSet({f"network.{name}": mask for name, mask in ticket.masks.items()})
    return Ticket(masks, model, history)


def _first_tokens(loader: Batches) -> Tensor:
    batch: Any = next(iter(loader))
    x: Tensor = batch[0]
    return x


@torch.no_grad()
def _first_prompts(
    network: nn.Module, row: Tensor, lengths: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return keys and values of the last tokens of a row, as if they stood before the text."""
    most = min(max(lengths), row.shape[1])
    ids = row[:, :most].to(next(network.parameters()).device)
    places = torch.arange(most, device=ids.device).unsqueeze(0)
    if any(hasattr(module, "inv_freq") for module in network.modules()):
        places = places - most  # rotary places may be below zero
    with evaluating(network):
        outputs: Any = network(input_ids=ids, position_ids=places, use_cache=True)
    held = getattr(outputs, name_of_cache(network)).layers
    parts = [[getattr(layer, name)[0] for layer in held] for name in ("keys", "values")]
    keys, values = (
        [_longer(part, length) for part, length in zip(whole, lengths, strict=True)]
        for whole in parts
    )
    return keys, values


def _longer(part: Tensor, length: int) -> Tensor:
    """Return the last `length` tokens of (H, n, d), repeated where there are fewer."""
    return part.repeat(1, -(-length // part.shape[1]), 1)[:, -length:]
