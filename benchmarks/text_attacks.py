"""Attacks on a sentiment classifier: what they find, and what batches of queries are worth.

    OMP_NUM_THREADS=1 python -m benchmarks.text_attacks --data-dir DATA --examples 50

The classifiers learn SST-2 (DATA/SST-2/{train,dev}.tsv): the mean of word vectors, a convolutional
network on frozen ones, and a linear head on MiniLM's sentence embeddings.  One line for each attack
on each; the last fields compare the same search on the same texts in batches and with one query at
a time: seconds in the classifier alone, and in all, sentence similarity included.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.text import (
    Classify,
    Neighbours,
    TextAttack,
    TextResult,
    deep_word_bug,
    is_stop_word,
    minilm,
    neighbour_attack,
    pwws,
    recheck,
    split,
    summarise,
    text_bugger,
    text_fooler,
    token_vectors,
    wordnet,
    worst_case,
)
from robustprune.certify import certify_synonyms, synonym_groups

ENCODER = minilm(device="cuda" if torch.cuda.is_available() else "cpu")


class MiniLMHead(nn.Module):
    """Logistic regression on the sentence embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(384, 2)

    def features(self, texts: list[str]) -> Tensor:
        return nn.functional.normalize(ENCODER(texts), dim=1).cpu()

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(10 * features)
        return logits


def vocabulary() -> tuple[dict[str, int], Tensor]:
    """MiniLM's whole-word tokens and their vectors; row 0 is padding, row 1 any other word."""
    words, vectors = token_vectors(ENCODER.model, ENCODER.tokenizer)
    rows = {word: k for k, word in enumerate(words, start=2)}
    return rows, torch.cat([torch.zeros(2, vectors.shape[1]), vectors])


def as_rows(texts: list[str], rows: dict[str, int]) -> Tensor:
    """Rows of the words, with one for padding at least."""
    ids = [[rows.get(word, 1) for word in text.lower().split()] for text in texts]
    longest = max(len(row) for row in ids) + 1
    return torch.tensor([row + [0] * (longest - len(row)) for row in ids])


class WordCNN(nn.Module):
    """Kim 2014: convolutions over 3 words, the largest answer of each filter, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, vectors = vocabulary()
        self.embedding = nn.Embedding.from_pretrained(vectors)
        self.conv = nn.Conv1d(384, 100, 3, padding=1)
        self.head = nn.Linear(100, 2)

    def features(self, texts: list[str]) -> Tensor:
        return as_rows(texts, self.rows)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.conv(self.embedding(ids).mT).relu()
        hidden = hidden.masked_fill((ids == 0)[:, None], 0.0)
        logits: Tensor = self.head(hidden.amax(2))
        return logits


class MeanOfWords(nn.Module):
    """Joulin et al. 2017 (fastText, arXiv 1607.01759): the mean of word vectors, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, vectors = vocabulary()
        self.embedding = nn.EmbeddingBag.from_pretrained(vectors, freeze=False, padding_idx=0)
        self.head = nn.Linear(384, 2)

    def features(self, texts: list[str]) -> Tensor:
        return as_rows(texts, self.rows)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(ids))
        return logits


Victim = MiniLMHead | WordCNN | MeanOfWords
EPOCHS = {MeanOfWords: 5, WordCNN: 5, MiniLMHead: 30}
VICTIMS = {kind.__name__: kind for kind in EPOCHS}


def trained(victim: Victim, texts: list[str], labels: Tensor, *, epochs: int) -> Victim:
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    batches = [order[k : k + 64] for k in range(0, len(order), 64)]
    features = [victim.features([texts[k] for k in batch]) for batch in batches]
    parameters = [p for p in victim.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(epochs):
        for k in torch.randperm(len(batches)).tolist():
            loss = nn.functional.cross_entropy(victim(features[k]), labels[batches[k]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return victim.eval()


def attacks() -> dict[str, Callable[[int], TextAttack]]:
    """Name -> attack with a batch size."""
    words, vectors = token_vectors(ENCODER.model, ENCODER.tokenizer)
    near = Neighbours(words, vectors, min_cosine=0.5, lexicon=wordnet())
    return {
        "deep_word_bug": lambda size: deep_word_bug(batch_size=size),
        "pwws": lambda size: pwws(batch_size=size),
        "text_fooler": lambda size: text_fooler(embed=ENCODER, batch_size=size),
        "text_bugger": lambda size: text_bugger(embed=ENCODER, batch_size=size),
        "embedding_neighbours": lambda size: neighbour_attack(near, embed=ENCODER, batch_size=size),
    }


def read(path: Path) -> tuple[list[str], Tensor]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"].strip() for row in rows], torch.tensor([int(r["label"]) for r in rows])


def seconds(
    attack: TextAttack, classify: Classify, texts: list[str], labels: list[int]
) -> tuple[float, float, list[TextResult]]:
    """Of the whole attack, and of the classifier within it."""
    inside = 0.0

    def timed(part: list[str]) -> Tensor:
        nonlocal inside
        start = time.perf_counter()
        logits = classify(part)
        inside += time.perf_counter() - start
        return logits

    start = time.perf_counter()
    results = attack(timed, texts, labels)
    return time.perf_counter() - start, inside, results


def certificate(classify: Classify, texts: list[str], labels: Tensor) -> dict[str, float]:
    """Synonym smoothing with groups of up to 10 words: accuracy and certified accuracy."""
    if not texts:
        return {}
    vocabulary = sorted({word.lower() for text in texts for word in split(text).words})
    content = [word for word in vocabulary if not is_stop_word(word)]
    groups = synonym_groups(content, wordnet().synonyms, most=10)
    result = certify_synonyms(classify, texts, groups)
    return {
        "n": len(texts),
        "smoothed_accuracy": (result.prediction == labels).double().mean().item(),
        "certified_any_number": result.certified_accuracy(labels),
        "open_slots": result.open_slots.double().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--train", type=int, default=4000, help="training sentences")
    parser.add_argument("--examples", type=int, default=50, help="dev sentences to attack")
    parser.add_argument("--certify", type=int, default=0, help="dev sentences to certify")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--amp", action="store_true", help="batches in bfloat16, single queries in float32"
    )
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--attacks", nargs="*", choices=attacks(), default=list(attacks()))
    args = parser.parse_args()

    torch.manual_seed(0)
    texts, labels = read(args.data_dir / "SST-2" / "train.tsv")
    chosen = torch.randperm(len(texts))[: args.train]
    texts, labels = [texts[k] for k in chosen.tolist()], labels[chosen]
    dev, answers = read(args.data_dir / "SST-2" / "dev.tsv")
    for kind in (VICTIMS[name] for name in args.victims):
        victim = trained(kind(), texts, labels, epochs=EPOCHS[kind])

        def classify(part: list[str], victim: Victim = victim) -> Tensor:
            with torch.no_grad():
                return victim(victim.features(part))

        def in_batches(part: list[str], exact: Classify = classify) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
                return exact(part).float()

        n = args.examples
        classify(dev[:n])  # warm
        in_batches(dev[:n])
        runs = []
        for name, make in attacks().items():
            if name not in args.attacks:
                continue
            attack = make(args.batch_size)
            whole, inside, results = seconds(attack, in_batches, dev[:n], answers[:n].tolist())
            whole_1, inside_1, alone = seconds(make(1), classify, dev[:n], answers[:n].tolist())
            queries = sum(r.queries for r in results)
            row: dict[str, object] = {
                "victim": kind.__name__,
                "attack": attack.name,
                **vars(summarise(recheck(classify, results))),
                "queries": queries,
                "accuracy_one_by_one": summarise(alone).accuracy_under_attack,
                "queries_per_second": queries / inside,
                "queries_per_second_one_by_one": sum(r.queries for r in alone) / inside_1,
                "seconds": whole,
                "seconds_one_by_one": whole_1,
                "speedup_classifier": inside_1 / inside,
                "speedup_attack": whole_1 / whole,
                "same_results": alone == results,
                "same_share": sum(a == b for a, b in zip(alone, results, strict=True)) / n,
            }
            print(json.dumps(row), flush=True)
            runs.append(results)
        certified = certificate(classify, dev[: args.certify], answers[: args.certify])
        print(json.dumps({"victim": kind.__name__, "certified": certified}), flush=True)
        if runs:
            print(json.dumps({"victim": kind.__name__, "attack": "worst case",
                          **vars(summarise(worst_case(runs)))}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
