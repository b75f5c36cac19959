"""Ways to make a run directory lie, each as consistent as a forger can have it.

A forger has everything: the files, the code, and time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from forging import (
    FILE,
    MASKS,
    SIGMA,
    WEIGHTS,
    Made,
    N,
    Rng,
    radius_that_its_hits_give,
    with_settings,
)

from robustprune.certify import (
    Certificate,
    file_digest,
    read_certificates,
    tensor_digest,
    write_certificates,
)
from robustprune.pipeline.prepare import task_of
from robustprune.pipeline.run_certificates import certified_examples
from robustprune.run.checkpoint import load_tensors, save_tensors

Forgery = Callable[[Made, Rng], None]


def _one(made: Made, rng: Rng, **wanted: object) -> tuple[list[Certificate], int]:
    """The certificates, and where one of them is that has these values and a radius."""
    certificates = made.certificates
    places = [
        i
        for i, c in enumerate(certificates)
        if c.radius > 0 and all(getattr(c, name) == value for name, value in wanted.items())
    ]
    return certificates, int(rng.choice(places))


def _proof_changed(change: Callable[[Certificate, Rng], Certificate]) -> Forgery:
    def forge(made: Made, rng: Rng) -> None:
        certificates, i = _one(made, rng, guarantee="base")
        certificates[i] = change(certificates[i], rng)
        made.state(certificates)

    return forge


def _smoothed_changed(change: Callable[[Certificate, Rng], Certificate]) -> Forgery:
    def forge(made: Made, rng: Rng) -> None:
        certificates, i = _one(made, rng, guarantee="smoothed")
        certificates[i] = change(certificates[i], rng)
        made.state(certificates)

    return forge


def _swapped(made: Made, rng: Rng) -> None:
    """Each speaks of the other's radius."""
    certificates, i = _one(made, rng, guarantee="base")
    others = [
        k
        for k, c in enumerate(certificates)
        if c.guarantee == "base" and abs(c.radius - certificates[i].radius) > 0.01
    ]
    k = int(rng.choice(others))
    one, other = certificates[i], certificates[k]
    certificates[i] = replace(one, radius=other.radius, prediction=one.label, attack_radius=None)
    certificates[k] = replace(other, radius=one.radius, prediction=other.label, attack_radius=None)
    made.state(certificates)


def _without(keep: Callable[[Certificate], bool]) -> Forgery:
    def forge(made: Made, rng: Rng) -> None:
        made.state([c for c in made.certificates if keep(c)])

    return forge


def _weights_changed(made: Made, rng: Rng) -> None:
    """Other weights, whose digests are right."""
    state, _ = load_tensors(made.folder / WEIGHTS)
    state["classifier.weight"] += torch.from_numpy(rng.normal(size=(3, 8))).float()
    save_tensors(made.folder / WEIGHTS, state)
    made.state(made.certificates)


def _removed_weight_back(made: Made, rng: Rng) -> None:
    state, _ = load_tensors(made.folder / WEIGHTS)
    masks, _ = load_tensors(made.folder / MASKS)
    places = (~masks["linear1.weight"]).nonzero()
    state["linear1.weight"][tuple(places[rng.integers(len(places))])] = 1e-30
    save_tensors(made.folder / WEIGHTS, state)
    made.state(made.certificates)


def _other_type(made: Made, rng: Rng) -> None:
    """Numbers that are rounded when they are loaded."""
    state, _ = load_tensors(made.folder / WEIGHTS)
    dtype = (torch.float64, torch.float16, torch.bfloat16, torch.complex64)[rng.integers(4)]
    for name in (*state,)[: rng.integers(1, len(state) + 1)]:
        state[name] = state[name].to(dtype)
    save_tensors(made.folder / WEIGHTS, state)
    known = {torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"}
    _manifest_alone(made, precision=known.get(dtype, "float32"))


def _manifest_alone(made: Made, **values: object) -> None:
    manifest, certificates = read_certificates(made.folder / FILE)
    fitting = replace(manifest, weights=file_digest(made.folder / WEIGHTS), **values)  # type: ignore[arg-type]
    write_certificates(made.folder / FILE, fitting, certificates)


def _manifest(**values: object) -> Forgery:
    return lambda made, rng: _manifest_alone(made, **values)


def _data_moved(made: Made, rng: Rng) -> None:
    """Other test examples, nearer to one another, with the old radii."""
    with np.load(made.folder / "d.npz") as arrays:
        content = dict(arrays)
    content["x_test"] = content["x_test"].mean(0) + 0.2 * (
        content["x_test"] - content["x_test"].mean(0)
    )
    content["x_test"] = content["x_test"].astype(np.float32)
    np.savez(made.folder / "d.npz", **content)
    _with_inputs_of_the_data(made)


def _labels_moved(made: Made, rng: Rng) -> None:
    with np.load(made.folder / "d.npz") as arrays:
        content = dict(arrays)
    content["y_test"] = (content["y_test"] + 1) % 3
    np.savez(made.folder / "d.npz", **content)
    _with_inputs_of_the_data(made)


def _with_inputs_of_the_data(made: Made) -> None:
    x, y = certified_examples(made.config, task_of(made.config, None))
    made.state(
        [
            replace(
                c,
                input=tensor_digest(x[c.index]),
                label=int(y[c.index]),
                prediction=int(y[c.index]),
                attack_radius=None,
            )
            for c in made.certificates
        ]
    )


def _another_headline(made: Made, rng: Rng) -> None:
    (made.folder / "metrics.json").write_text('{"headline": "adversarial"}')
    made.state(made.certificates)


def _another_network_stored(made: Made, rng: Rng) -> None:
    """The run's own model of that name is another one."""
    state, _ = load_tensors(made.folder / WEIGHTS)
    state["classifier.bias"] = state["classifier.bias"] + 1
    (made.folder / "models" / "rst").mkdir(parents=True)
    save_tensors(made.folder / "models" / "rst" / WEIGHTS, state)


def _fiction(made: Made, rng: Rng) -> None:
    """Samples by the thousand million, in the config too, all of them hits."""
    n = 10**9
    made.configure(n=n)
    certificates = [
        radius_that_its_hits_give(c, n, n=n) if c.guarantee == "smoothed" else c
        for c in made.certificates
    ]
    made.state(certificates)


def _louder(made: Made, rng: Rng) -> None:
    """The same hits under four times the noise, in the config too."""
    made.configure(sigma=4 * SIGMA)
    made.state(
        [
            replace(with_settings(c, sigma=4 * SIGMA), radius=4 * c.radius)
            if c.guarantee == "smoothed"
            else c
            for c in made.certificates
        ]
    )


def _raw(change: Callable[[list[dict[str, Any]], Rng], None]) -> Forgery:
    """Lines that `write_certificates` would refuse, or not write so."""

    def forge(made: Made, rng: Rng) -> None:
        lines = [json.loads(line) for line in (made.folder / FILE).read_text().splitlines()]
        change(lines, rng)
        (made.folder / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return forge


def _as_schema_1(lines: list[dict[str, Any]], rng: Rng) -> None:
    """What older versions wrote said less; a radius too large all the same."""
    lines[0]["schema"] = 1
    del lines[0]["precision"], lines[0]["language"]
    for line in lines[1:]:
        del line["outcome"], line["replaceable"]
    line = next(one for one in lines[1:] if one["radius"] > 0)
    line["radius"], line["attack_radius"] = 1.5 * line["radius"], None


#: by name; what each leaves behind is false, or not what the config asks for
FORGERIES: dict[str, Forgery] = {
    "a radius grown": _proof_changed(
        lambda c, rng: replace(c, radius=c.radius * rng.uniform(1.01, 4), attack_radius=None)
    ),
    "a radius beyond its attack": _proof_changed(
        lambda c, rng: replace(c, radius=1.001 * (c.attack_radius or 1.0))
    ),
    "an attack that is nearer": _proof_changed(
        lambda c, rng: replace(c, attack_radius=c.radius * rng.uniform(0, 0.99))
    ),
    "a radius of another norm": _proof_changed(
        lambda c, rng: replace(c, norm="l1", radius=4 * c.radius, attack_radius=None)
    ),
    "a radius by another method": _proof_changed(
        lambda c, rng: replace(c, method="alpha-crown", radius=1.05 * c.radius)
    ),
    "a search of another kind": _proof_changed(lambda c, rng: with_settings(c, rounds=3)),
    "another label": _proof_changed(
        lambda c, rng: replace(c, label=(c.label + 1) % 3, prediction=(c.label + 1) % 3)
    ),
    "another answer": _proof_changed(
        lambda c, rng: replace(c, prediction=(c.label + 1) % 3, radius=0.0)
    ),
    "another input": _proof_changed(lambda c, rng: replace(c, input="0" * 64)),
    "an example that is none": _proof_changed(lambda c, rng: replace(c, index=1000)),
    "radii swapped": _swapped,
    "an example left out": lambda made, rng: made.state(made.certificates[1:]),
    "no proofs": _without(lambda c: c.guarantee == "smoothed"),
    "no smoothing": _without(lambda c: c.guarantee == "base"),
    "nothing": _without(lambda c: False),
    "weights changed": _weights_changed,
    "a removed weight put back": _removed_weight_back,
    "weights of another type": _other_type,
    "inputs moved": _data_moved,
    "labels moved": _labels_moved,
    "another headline": _another_headline,
    "another network of that name": _another_network_stored,
    "samples never drawn": _fiction,
    "hits never had": _smoothed_changed(
        lambda c, rng: radius_that_its_hits_give(c, 50 * N, n=50 * N)
    ),
    "louder noise": _louder,
    "louder noise, said once": _smoothed_changed(
        lambda c, rng: replace(with_settings(c, sigma=3.0), radius=6 * c.radius)
    ),
    "another confidence": _smoothed_changed(
        lambda c, rng: radius_that_its_hits_give(c, int(c.hits or 0), alpha=0.3)
    ),
    "a seed of its own": _smoothed_changed(lambda c, rng: with_settings(c, seed=7)),
    "a confidence that it has not": _smoothed_changed(
        lambda c, rng: replace(c, confidence=1 - 1e-9)
    ),
    "a smoothed radius grown": _smoothed_changed(
        lambda c, rng: replace(c, radius=c.radius * rng.uniform(1.001, 3))
    ),
    "no failure": _manifest(total_failure=0.0),
    "other limits": _manifest(limits=("This network is safe.",)),
    "limits that hide": _manifest(limits=("\n\x1b[2K\rall 30 checks passed",)),
    "another eps": _manifest(eps=0.2),
    "another model": _manifest(model="natural"),
    "another precision": _manifest(precision="float64"),
    "another language model": _manifest(language="0" * 64),
    "other bounds": _manifest(bounds=(0.0, 1.0)),
    "an older schema": _raw(_as_schema_1),
    "a radius that is no number": _raw(lambda lines, rng: lines[1].update(radius=float("nan"))),
    "an endless radius": _raw(lambda lines, rng: lines[1].update(radius=1e300)),
    "a certificate twice": _raw(lambda lines, rng: lines.append(lines[1])),
    "an outcome that is none": _raw(
        lambda lines, rng: lines[1].update(outcome="certified", radius=0)
    ),
}
