"""Attacks on a sentiment classifier: what they find, and what batches of queries are worth.

    OMP_NUM_THREADS=1 python -m benchmarks.text_attacks --data-dir DATA --examples 50

The classifiers learn SST-2 (DATA/SST-2/{train,dev}.tsv): a linear head on MiniLM's frozen sentence
embeddings, and a small convolutional network on its frozen token embeddings.  The table has one
row for each attack on each; the last columns compare queries per second with batches of 256 and
with one query at a time, in the same search.
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
    minilm,
    neighbour_attack,
    pwws,
    recheck,
    summarise,
    text_bugger,
    text_fooler,
    token_vectors,
    wordnet,
    worst_case,
)

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


class WordCNN(nn.Module):
    """Kim 2014: convolutions over 3 tokens, the largest answer of each filter, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        vectors = ENCODER.model.get_input_embeddings().weight.detach().cpu().clone()
        self.embedding = nn.Embedding.from_pretrained(vectors)
        self.conv = nn.Conv1d(384, 100, 3, padding=1)
        self.head = nn.Linear(100, 2)

    def features(self, texts: list[str]) -> Tensor:
        batch = ENCODER.tokenizer(
            texts, padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        ids: Tensor = batch["input_ids"]
        return ids

    def forward(self, ids: Tensor) -> Tensor:
        padding = (ids == 0)[:, None]  # as if the sentence ended there, in whatever batch it is
        hidden = self.conv(self.embedding(ids).mT.masked_fill(padding, 0.0)).relu()
        hidden = hidden.masked_fill(padding, 0.0)
        logits: Tensor = self.head(hidden.amax(2))
        return logits


Victim = MiniLMHead | WordCNN


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


def attacks() -> list[Callable[[int], TextAttack]]:
    words, vectors = token_vectors(ENCODER.model, ENCODER.tokenizer)
    near = Neighbours(words, vectors, min_cosine=0.5, lexicon=wordnet())
    return [
        lambda batch_size: text_fooler(embed=ENCODER, batch_size=batch_size),
        lambda batch_size: text_bugger(embed=ENCODER, batch_size=batch_size),
        lambda batch_size: deep_word_bug(batch_size=batch_size),
        lambda batch_size: pwws(batch_size=batch_size),
        lambda batch_size: neighbour_attack(near, embed=ENCODER, batch_size=batch_size),
    ]


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--train", type=int, default=4000, help="training sentences")
    parser.add_argument("--examples", type=int, default=50, help="dev sentences to attack")
    parser.add_argument("--one-by-one", type=int, default=5, help="of them, without batches")
    args = parser.parse_args()

    torch.manual_seed(0)
    texts, labels = read(args.data_dir / "SST-2" / "train.tsv")
    chosen = torch.randperm(len(texts))[: args.train]
    texts, labels = [texts[k] for k in chosen.tolist()], labels[chosen]
    dev, answers = read(args.data_dir / "SST-2" / "dev.tsv")
    for kind, epochs in ((WordCNN, 5), (MiniLMHead, 30)):
        victim = trained(kind(), texts, labels, epochs=epochs)

        def classify(part: list[str], victim: Victim = victim) -> Tensor:
            with torch.no_grad():
                return victim(victim.features(part))

        n, few = args.examples, args.one_by_one
        runs = []
        for make in attacks():
            attack, single = make(256), make(1)
            whole, inside, results = seconds(attack, classify, dev[:n], answers[:n].tolist())
            whole_1, inside_1, alone = seconds(single, classify, dev[:few], answers[:few].tolist())
            results = recheck(classify, results)
            runs.append(results)
            queries, queries_1 = (sum(r.queries for r in rs) for rs in (results, alone))
            row: dict[str, object] = {
                "victim": kind.__name__,
                "attack": attack.name,
                **vars(summarise(results)),
                "queries": queries,
                "seconds": whole,
                "queries_per_second": queries / inside,
                "queries_per_second_one_by_one": queries_1 / inside_1,
                "speedup_classifier": (queries / inside) / (queries_1 / inside_1),
                "speedup_attack": (queries / whole) / (queries_1 / whole_1),
                "same_as_batched": alone == results[:few],
            }
            print(json.dumps(row), flush=True)
        print(json.dumps({"victim": kind.__name__, "attack": "worst case",
                          **vars(summarise(worst_case(runs)))}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
