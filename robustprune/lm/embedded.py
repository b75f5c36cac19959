"""Texts as points of the space of word embeddings, so that attacks can move them a little.

A window of T tokens is packed as in `robustprune.packing`, with room for a displacement δ of every
word embedding. `EmbeddedText` turns a causal language model into a function of such windows, whose
one number for each window is the loss that an adversary raises:

    attack = PGD(ThreatModel("l2", eps, support=words), loss=token_loss, steps=10)
    adversarial_perplexity(model, windows, attack)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attacks import Attack
from attacks.modes import evaluating
from attacks.network import logits_of
from attacks.scale import scaled
from robustprune.lm.cache import name_of_cache
from robustprune.lm.perplexity import Perplexity, check_windows, next_token_losses
from robustprune.minmax import StepResult, tally
from robustprune.minmax.objectives import check_not_negative, ramp
from robustprune.minmax.result import cross_entropy
from robustprune.packing import pack_tokens, unpack_tokens, with_room


class EmbeddedText(nn.Module):
    """Compute the loss of windows whose word embeddings are displaced: x (N, T, D + 3) -> (N, 2).

    The first number is the mean over the predicted tokens, in nats, of

        −log p(w_{t+1} | e(w_1) + δ_1, …, e(w_t) + δ_t);

    the second is −1, which is below every loss. As "logits" with the label 0 they are thus always
    right, so that an attack never stops early. The tokens to be predicted, and an output layer that
    shares the table of embeddings, are not displaced.

    Args:
        network: a causal language model that takes `inputs_embeds`.
        cache: makes a new cache, such as what `evicting` yields. Then tokens go through the network
            one by one, each with what the cache still holds. Gradients pass through what it holds;
            which tokens are evicted does not change with a small δ, and has no gradient.

    Raises:
        ValueError: it has no word embeddings, or it does not take `inputs_embeds`.
    """

    def __init__(self, network: nn.Module, cache: Callable[[], object] | None = None) -> None:
        super().__init__()
        if "inputs_embeds" not in inspect.signature(network.forward).parameters or not hasattr(
            network, "get_input_embeddings"
        ):
            raise ValueError(
                f"{type(network).__name__} takes no inputs_embeds, which the attack changes; give "
                "a causal language model of transformers"
            )
        self.network = network
        self.cache = cache

    @property
    def width(self) -> int:
        """D, the number of entries of a word embedding."""
        return int(self._table.embedding_dim)

    @property
    def _table(self) -> nn.Embedding:
        get: Any = self.network.get_input_embeddings
        table: nn.Embedding = get()
        return table

    def next_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, T − 1, words) and the tokens that they predict, (N, T − 1)."""
        tokens = unpack_tokens(x)
        embeddings = self._table(tokens.ids)
        embeddings = embeddings + tokens.delta.to(embeddings.dtype)
        if self.cache is None:
            logits: Tensor = self.network(inputs_embeds=embeddings, use_cache=False).logits[:, :-1]
        else:
            held = {name_of_cache(self.network): self.cache()}
            every = (embeddings[:, t : t + 1] for t in range(embeddings.shape[1] - 1))
            outputs = [self.network(inputs_embeds=e, use_cache=True, **held) for e in every]
            logits = torch.cat([output.logits for output in outputs], dim=1)
        return logits, tokens.ids[:, 1:]

    def forward(self, x: Tensor) -> Tensor:
        loss = next_token_losses(*self.next_tokens(x)).mean(1)
        return torch.stack([loss, loss.new_full(loss.shape, -1.0)], dim=1)


def token_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each window from what `EmbeddedText` returns, (N, 2) -> (N,): the `loss`
    of an attack."""
    return logits[:, 0]


def embedded(windows: Tensor, width: int, *, bos: int | None = None) -> Tensor:
    """Pack windows of token ids, (N, T), with room for δ: (N, T, width + 3) float32.

    Args:
        width: D of the model, `EmbeddedText.width`.
        bos: an id whose embedding is never displaced, that of the token that begins a text.
    """
    special = torch.zeros_like(windows) if bos is None else windows == bos
    codes = pack_tokens(windows, torch.zeros_like(windows), torch.ones_like(windows), special)
    return with_room(codes, width)


def adversarial_perplexity(
    model: nn.Module,
    windows: Tensor,
    attack: Attack,
    *,
    bos: int | None = None,
    batch_size: int = 16,
    cache: Callable[[], object] | None = None,
) -> Perplexity:
    """Measure the perplexity where an adversary displaces the word embeddings of each window.

    It is the perplexity at the worst points that the attack found, never better than without it.
    The true worst case may be higher: an upper bound on robustness.

    Args:
        model: a causal language model of transformers.
        windows: (N, T) int64, T at least 2.
        attack: an attack with `loss=token_loss` and a threat model with `support=words`.
        bos: as in `embedded`.
        cache: as in `EmbeddedText`: the model is attacked while its cache is cut.

    Raises:
        ValueError: windows have another shape, the model can't be attacked in this way, or it
            returns NaN.
    """
    check_windows(windows)
    text = EmbeddedText(model, cache)
    where = next(model.parameters()).device
    losses = []
    with evaluating(model):
        for ids in torch.split(windows, batch_size):
            x = embedded(ids, text.width, bos=bos).to(where)
            moved = attack(text, x, torch.zeros(len(x), dtype=torch.long, device=where))
            with torch.no_grad():
                found = [logits_of(text, point)[:, 0].double().cpu() for point in (x, moved)]
            losses.append(torch.maximum(*found))
    return Perplexity(torch.cat(losses), windows.shape[1] - 1)


@dataclass(frozen=True)
class AdversarialText:
    """Minimise E max_{‖δ‖≤ε} ℓ(f(e(x) + δ)), training on displaced word embeddings.

    It is the objective of a training of `EmbeddedText(model)` on batches of `embedded` windows,
    with labels 0 (Madry et al. 2018, arXiv 1706.06083, Eq. 2.1, for the loss of the next token).

    Attributes:
        attack: an attack as in `adversarial_perplexity`; None trains on clean windows.
        warmup: the number of epochs in which ε grows linearly from zero.
    """

    attack: Attack | None
    warmup: float = 0.0
    moves_inputs: ClassVar[bool] = True
    class_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_not_negative(warmup=self.warmup)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        if self.attack is not None:
            x = scaled(self.attack, ramp(epoch, self.warmup))(model, x, y)
        logits, labels = _text_of(model).next_tokens(x)
        return StepResult(
            cross_entropy(logits, labels), *tally(logits, labels), self.attack is not None
        )


def _text_of(model: nn.Module) -> EmbeddedText:
    if not isinstance(model, EmbeddedText):
        raise ValueError(
            f"AdversarialText trains EmbeddedText(model), not {type(model).__name__} itself"
        )
    return model
