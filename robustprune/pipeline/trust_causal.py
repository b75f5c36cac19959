"""`robustprune trust` of a run on a causal language model."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from robustprune.measure.choices import Question, cloze_questions
from robustprune.measure.trust_causal import TextTokens, compare_trust_causal
from robustprune.models.causal import stored_network
from robustprune.pipeline.again import kept_alone
from robustprune.pipeline.causal_run import CausalRun
from robustprune.pipeline.trust_leakage import EPOCHS, SECRETS, leakage
from robustprune.pipeline.trust_page import Asked, check_names, write_page
from robustprune.pipeline.trust_questions import (
    FOLDER,
    RETRIEVAL,
    SUMMARIES,
    Asks,
    read_asks,
)
from robustprune.pipeline.trust_retrained import Pair
from robustprune.pipeline.trust_text_sets import text_sets
from robustprune.report.causal_records import parse_causal
from robustprune.report.trust import TrustPage
from robustprune.report.trust_sections import Section
from robustprune.tasks.folders import data_folder

#: the largest number of cloze questions, the prompt and the number of tokens that continue it
QUESTIONS, PROMPT, CONTINUATION = 200, 24, 40


def trust_language(run: CausalRun, asked: Asked) -> dict[str, Any]:
    """Measure what compression changes in a finished run, and write the files of `write_page`.

    The run's data folder may have questions and summaries, see `read_asks`.

    Raises:
        ValueError, OSError: as in `trust.trust_run`.
    """
    record = parse_causal(run.folder.read_json("metrics.json"))
    titles = {one.name: one.title for one in record.networks}
    dense = record.dense.name if asked.against is None else asked.against
    compressed = record.headline if asked.compressed is None else asked.compressed
    check_names(dense, compressed, list(titles))
    if "leakage" in asked.more and not run.quiet:
        print(
            f"leakage: trains the dense network for {EPOCHS} passes over {2 * SECRETS} windows and "
            "prunes it once more; the same command goes on if you stop it",
            file=sys.stderr,
        )
    rows = run.evaluation[: asked.examples]
    asks = _questions(run, min(QUESTIONS, asked.examples))
    more = read_asks(data_folder(run.data_dir), min(QUESTIONS, asked.examples))
    _check_lengths(run, more)
    prompt = min(PROMPT, rows.shape[1])
    continuation = _continuation(run, prompt)
    first, second = (_network(run, one, record.dense.name) for one in (dense, compressed))
    found = compare_trust_causal(
        first,
        second,
        rows,
        questions=asks,
        retrieval=more.retrieval,
        summaries=more.summaries,
        text=_text_tokens(run),
        prompt=prompt,
        continuation=continuation,
        batch_size=run.config.causal.batch_size,
        seed=run.config.seed,
    )
    corpus = run.corpus
    protocol = (
        ("Text", f"{corpus.name}: {corpus.source}"),
        ("Windows", f"the first {len(rows):,} of the test text, {rows.shape[1]} tokens each"),
        (
            "Cloze",
            f"{len(asks)} sentences of the test text: the last word, given up to 40 words before "
            "it, among 4 words that end other sentences; by mean log-likelihood per token, and "
            "whether the network says it by itself",
        ),
        (
            "Repetition",
            f"{continuation} tokens by greedy decoding after the first {prompt} of each window",
        ),
        *_said(more),
    )
    pair = Pair((dense, compressed), (titles[dense], titles[compressed]), (first, second))
    page = TrustPage(
        name=run.config.name,
        subtitle=f"{corpus.name} · seed {run.config.seed}",
        dense=titles[dense],
        compressed=titles[compressed],
        changes=found,
        disagreement=None,
        calibrations={},
        protocol=protocol,
        command=asked.command(run.folder.path, dense, compressed),
        sections=_sections(run, pair, asked),
    )
    return write_page(run.folder, page, {"n": len(rows)}, dense, compressed)


def _text_tokens(run: CausalRun) -> TextTokens:
    tokenizer = run.language.tokenizer

    def words(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    return TextTokens(run.language.tokens, run.language.bos, words, tokenizer.eos_token_id)


def _said(more: Asks) -> list[tuple[str, str]]:
    """Return what the page says of questions and summaries of the data folder."""
    found = []
    if more.retrieval:
        found.append(
            (
                "Retrieval",
                f"{len(more.retrieval)} questions of {FOLDER}/{RETRIEVAL}: the answer by mean "
                "log-likelihood per token, and whether the network says it by itself",
            )
        )
    if more.summaries:
        found.append(
            (
                "Summaries",
                f"{len(more.summaries)} of {FOLDER}/{SUMMARIES}, by greedy decoding; F-measure of "
                "ROUGE-L",
            )
        )
    return found


def _check_lengths(run: CausalRun, more: Asks) -> None:
    """Refuse a text that has more tokens than the model has positions."""
    tokens = run.language.tokens
    for one in more.retrieval:
        longest = max(len(tokens(one.context + option)) for option in one.options)
        run.language.check_window(1 + longest, f"tokens of a question in {RETRIEVAL}")
    for text in more.summaries:
        length = 1 + len(tokens(text.prompt)) + len(tokens(text.reference))
        run.language.check_window(length, f"tokens of a text in {SUMMARIES}")


def _sections(run: CausalRun, pair: Pair, asked: Asked) -> tuple[Section, ...]:
    """Measure what is asked for by name."""
    section, language = run.config.causal, run.language

    def sets() -> Section:
        assert asked.sets is not None, "`check_more` refuses it"
        return text_sets(
            pair, asked.sets, language.tokens, bos=language.bos,
            length=section.calibration_window, number=section.calibration,
            dense=run.config.search.dense, batch_size=section.batch_size, seed=run.config.seed,
            field=section.field,
        )  # fmt: skip

    found = {"leakage": lambda: leakage(run, pair), "set-difference": sets}
    with kept_alone(run.folder) if "leakage" in asked.more else nullcontext():
        return tuple(found[name]() for name in dict.fromkeys(asked.more))


def _questions(run: CausalRun, number: int) -> list[Question]:
    """Return cloze questions, those that fit into the positions of the model; none where the text
    has too few sentences for them."""
    language = run.language
    try:
        found = cloze_questions(run.corpus.test, number, seed=run.config.seed)
    except ValueError:
        return []
    most = math.inf if language.positions is None else language.positions - 1  # after BOS
    return [
        one
        for one in found
        if max(len(language.tokens(one.context + option)) for option in one.options) <= most
    ]


def _continuation(run: CausalRun, prompt: int) -> int:
    """Return how many tokens the model can write after a prompt; 0 where they have no 4-grams."""
    positions = run.language.positions
    room = CONTINUATION if positions is None else min(CONTINUATION, positions - prompt)
    return room if room >= 4 else 0


def _network(run: CausalRun, name: str, dense: str) -> nn.Module:
    if name == dense:
        return run.language.network.to(run.device)
    return stored_network(run.folder.path / "models" / name).to(run.device)
