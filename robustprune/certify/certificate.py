"""The claim about each example, and the file with all claims: certificates.jsonl.

The first line is the manifest, and every other line is a certificate. `schema.json` describes both.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from robustprune.run.checkpoint import write_atomically
from robustprune.run.files import read_bytes
from robustprune.run.terminal import shown
from robustprune.tabular import html_table

FILE = "certificates.jsonl"
SCHEMA = 2

Norm = Literal["linf", "l2", "l1"]
#: the distances of certificates: norms, or the number of replaced words of a sentence
Metric = Literal["linf", "l2", "l1", "words"]
Guarantee = Literal["base", "smoothed"]
#: the outcome of a certificate: a radius, or one of three reasons why there is none
Outcome = Literal["certified", "wrong", "abstained", "unproven"]


@dataclass(frozen=True, repr=False)
class Certificate:
    """One claim: the classifier answers every x' nearer to x than `radius` with `label`.

    Attributes:
        index: the position in the test split.
        input: the `tensor_digest` of x.
        label: the true class.
        prediction: the classifier's answer at x; None where the smoothed classifier abstains.
        norm: the norm of the distance. "words" is the number of words that differ between two
            sentences and belong to the same group of synonyms; it is infinite if anything else
            differs.
        radius: in input units, or a number of words. 0, which claims nothing, if `outcome` is not
            "certified".
        method: one of `bounds.METHODS`, or "smoothing" or "synonyms".
        settings: the settings of the method: eps_max, rounds and steps of
            `bounds.certified_radius`; or n0, n, alpha and seed of smoothing, with sigma, or with
            most, the largest number of words in a group.
        confidence: 1 for a proof, 1 − alpha for smoothing: the claim is wrong with probability at
            most alpha.
        hits: for smoothing, the number of the n samples that fell into the selected class; None for
            a proof.
        attack_radius: the distance of the nearest adversarial example that attacks found, an upper
            bound on r* of the same classifier; None if none was found or searched.
        guarantee: the classifier that the claim is about: the "base" network or the "smoothed"
            classifier.
        replaceable: for synonyms, the number of words of the sentence that have others in their
            group. A larger radius covers every sentence that can be made with them. None for other
            methods, and in files of schema 1, where all radii above 0 are larger.
    """

    index: int
    input: str
    label: int
    prediction: int | None
    norm: Metric
    radius: float
    method: str
    settings: Mapping[str, float]
    confidence: float
    hits: int | None
    attack_radius: float | None
    guarantee: Guarantee
    replaceable: int | None = None

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {value}" for name, value in self._facts() if value != "–")
        return f"Certificate({said})"

    def _repr_html_(self) -> str:
        return html_table("certificate", (), self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        """Return what a reader asks first, as text."""
        held = "proof" if self.confidence == 1 else f"{100 * self.confidence:g}%"
        attacked = "–" if self.attack_radius is None else f"{self.attack_radius:.4g}"
        return [
            ("example", str(self.index)),
            ("label", str(self.label)),
            ("outcome", self.outcome),
            ("radius", f"{self.radius:.4g} ({self.norm})"),
            ("method", self.method),
            ("confidence", held),
            ("nearest attack", attacked),
        ]

    @property
    def outcome(self) -> Outcome:
        """Return "certified", or why the radius is 0: the answer is "wrong", the smoothed
        classifier "abstained", or the bounds proved nothing ("unproven")."""
        if self.radius > 0:
            return "certified"
        if self.prediction is None:
            return "abstained"
        return "wrong" if self.prediction != self.label else "unproven"

    @property
    def covers_all_words(self) -> bool:
        """Whether the claim holds whatever words are replaced within their groups."""
        return self.radius > (self.replaceable or 0)


@dataclass(frozen=True)
class Manifest:
    """The objects from which the certificates of a file were made.

    Attributes:
        task: the name of the task; the examples are the first `n` of its test split.
        model: the name of the certified network in the run.
        weights, masks, config: the `file_digest` of its model.safetensors, its masks.safetensors
            (None if it is dense) and config.yaml.
        data: the `tensor_digest` of the n examples and their labels.
        norm, eps, bounds: the threat model of the run. Proofs are for inputs within these bounds.
        seed: the seed of the run.
        total_failure: an upper bound of the probability that at least one claim of the file is
            wrong, which is the sum of 1 − confidence (Bonferroni).
        versions: the versions of robustprune, python, torch, numpy and scipy.
        limits: what is not claimed, in plain sentences.
        precision: the floating-point format in which the certified network runs, such as "float32";
            proofs hold for every evaluation in it. None in files of schema 1, whose proofs are
            about real numbers.
        language: the `attacks.text.description_digest` of the pre-trained language model whose
            config and tokenizer the certified network uses; None for other networks.
    """

    task: str
    model: str
    weights: str
    masks: str | None
    config: str
    data: str
    norm: Norm
    eps: float
    bounds: tuple[float, float] | None
    seed: int
    n: int
    total_failure: float
    versions: Mapping[str, str]
    limits: tuple[str, ...]
    precision: str | None = None
    language: str | None = None


def total_failure(certificates: Sequence[Certificate]) -> float:
    """Return min(1, Σ (1 − confidence)), the union bound, which holds for any dependence."""
    return min(1.0, sum(1.0 - certificate.confidence for certificate in certificates))


def write_certificates(path: Path, manifest: Manifest, certificates: Sequence[Certificate]) -> None:
    """Write the manifest and the certificates, whole or not at all.

    Raises:
        ValueError: the schema does not allow a value. Then nothing is written.
    """
    lines = [{"kind": "manifest", "schema": SCHEMA, **asdict(manifest)}]
    lines += [{"kind": "certificate", **asdict(c), "outcome": c.outcome} for c in certificates]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    parse_certificates(text, source=str(path))
    write_atomically(path, text)


def read_certificates(path: Path) -> tuple[Manifest, tuple[Certificate, ...]]:
    """Read a file of `write_certificates`, and refuse everything that the schema does not allow.

    Raises:
        ValueError: the file is missing or malformed; the message names the file, the line and the
            field.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or 'No such file'}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from error
    return parse_certificates(text, source=str(path))


def parse_certificates(text: str, *, source: str) -> tuple[Manifest, tuple[Certificate, ...]]:
    """Do the same as `read_certificates` for a text; errors call it `source`."""
    lines = text.split("\n")
    if lines.pop() or not lines:
        raise ValueError(f"{source} must hold whole lines, at least one; it is cut off or empty")
    old = _is_old(lines[0])
    first, *others = (
        _line(line, "certificate" if number > 1 else "manifest", f"{source}, line {number}", old)
        for number, line in enumerate(lines, start=1)
    )
    del first["schema"]
    bounds = first.pop("bounds")
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ValueError(f"{source}, line 1, bounds: must be [low, high], got {bounds}")
    manifest = Manifest(
        **{**first, "limits": tuple(first["limits"])}, bounds=tuple(bounds) if bounds else None
    )
    seen: dict[tuple[int, str], int] = {}
    certificates = []
    for number, line in enumerate(others, start=2):
        key = (line["index"], line["method"])
        if key in seen:
            raise ValueError(
                f"{source}, line {number}: example {key[0]} has a certificate by {key[1]} on line "
                f"{seen[key]} already"
            )
        seen[key] = number
        outcome = line.pop("outcome")
        certificate = Certificate(**line)
        certificates.append(certificate)
        if not old and outcome != certificate.outcome:
            raise ValueError(
                f"{source}, line {number}, outcome: {outcome!r} does not go with this radius, "
                f"label and prediction, which make it {certificate.outcome!r}"
            )
        if not old and (certificate.replaceable is None) != (certificate.method != "synonyms"):
            raise ValueError(
                f"{source}, line {number}, replaceable: a number for synonyms, and null otherwise"
            )
    return manifest, tuple(certificates)


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    schema = json.loads(resources.files(__package__).joinpath("schema.json").read_text("utf-8"))
    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]})


def _is_old(first: str) -> bool:
    """Return whether a manifest says that it has schema 1."""
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and type(value.get("schema")) is int and value["schema"] == 1


#: the largest number of characters that a message quotes from a file
_LONGEST = 400
#: fields that hold whole numbers, or null
_WHOLE = ("index", "label", "prediction", "hits", "replaceable", "seed", "n")
#: the fields that lines of schema 1 do not have
NEW: dict[str, dict[str, Any]] = {
    "manifest": {"schema": SCHEMA, "precision": None, "language": None},
    "certificate": {"replaceable": None, "outcome": "unproven"},
}


def _line(text: str, kind: str, source: str, old: bool) -> dict[str, Any]:
    """Return a line as a dictionary of the dataclass's fields, and outcome.

    old: whether it has schema 1, whose missing fields are then filled in.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON number")

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):  # readers could take different ones
            names = ", ".join(k for k, _ in pairs)
            raise ValueError(f"a field is given twice among {shown(names, _LONGEST)}")
        return fields

    try:
        value = json.loads(text, parse_constant=refuse, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from error
    if old and isinstance(value, dict):
        later = [name for name in NEW[kind] if name in value and name != "schema"]
        if later:
            raise ValueError(f"{source}, {later[0]}: unknown in a file of schema 1")
        value |= NEW[kind]
    fault = best_match(_validator(kind).iter_errors(value))
    if fault is not None:
        where = f"{source}, {fault.json_path[2:]}" if fault.absolute_path else source
        raise ValueError(f"{where}: {shown(fault.message, _LONGEST)}")
    assert isinstance(value, dict), "the schema says so"
    # JSON has one kind of numbers, so that the schema accepts 3.0 as a whole number
    value |= {name: int(value[name]) for name in _WHOLE if isinstance(value.get(name), float)}
    del value["kind"]
    return value
