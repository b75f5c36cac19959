"""certificates.jsonl: what is written comes back, and nothing else is taken."""

import copy
import dataclasses
import hashlib
import json
import os
import struct
from importlib import resources

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from robustprune.bounds import METHODS
from robustprune.certify import (
    Certificate,
    Manifest,
    file_digest,
    read_certificates,
    tensor_digest,
    total_failure,
    write_certificates,
)
from robustprune.certify.certificate import parse_certificates

SHA = "0123456789abcdef" * 4
MANIFEST = Manifest(
    task="ecg200",
    model="rst",
    weights=SHA,
    masks=None,
    config=SHA,
    data=SHA,
    norm="linf",
    eps=0.1,
    bounds=(0.0, 1.0),
    seed=0,
    n=2,
    total_failure=0.001,
    versions={
        "robustprune": "0.1.0",
        "python": "3.12.1",
        "torch": "2.7.0",
        "numpy": "2.0.0",
        "scipy": "1.14.0",
    },
    limits=("Only of these examples.",),
    precision="float32",
)
PROOF = Certificate(
    index=1,
    input=SHA,
    label=1,
    prediction=1,
    norm="linf",
    radius=0.0625,
    method="crown",
    settings={"eps_max": 1.0, "rounds": 12, "steps": 20},
    confidence=1.0,
    hits=None,
    attack_radius=0.125,
    guarantee="base",
)
SMOOTHED = Certificate(
    index=1,
    input=SHA,
    label=1,
    prediction=None,
    norm="l2",
    radius=0.0,
    method="smoothing",
    settings={"sigma": 0.25, "n0": 100, "n": 1000, "alpha": 0.001, "seed": 0},
    confidence=0.999,
    hits=480,
    attack_radius=None,
    guarantee="smoothed",
)
SYNONYMS = dataclasses.replace(
    SMOOTHED,
    prediction=1,
    norm="words",
    radius=9.0,
    method="synonyms",
    settings={"most": 10, "n0": 100, "n": 1000, "alpha": 0.001, "seed": 0},
    hits=980,
    replaceable=8,
)
LINES = {
    "manifest": {"kind": "manifest", "schema": 2, **dataclasses.asdict(MANIFEST)},
    "proof": {"kind": "certificate", **dataclasses.asdict(PROOF), "outcome": "certified"},
    "smoothed": {"kind": "certificate", **dataclasses.asdict(SMOOTHED), "outcome": "abstained"},
    "synonyms": {"kind": "certificate", **dataclasses.asdict(SYNONYMS), "outcome": "certified"},
}


def text_of(**changed):
    lines = {**LINES, **changed}
    return "".join(json.dumps(line) + "\n" for line in lines.values())


def parse(**changed):
    return parse_certificates(text_of(**changed), source="c.jsonl")


def test_round_trip(tmp_path):
    path = tmp_path / "certificates.jsonl"
    write_certificates(path, MANIFEST, [PROOF, SMOOTHED, SYNONYMS])
    assert read_certificates(path) == (MANIFEST, (PROOF, SMOOTHED, SYNONYMS))
    assert [file.name for file in tmp_path.iterdir()] == ["certificates.jsonl"]


def test_whole_numbers_may_have_a_point():
    """JSON has one kind of numbers: other writers make 1.0 of 1."""
    lines = {
        name: {k: float(v) if type(v) is int and k != "schema" else v for k, v in line.items()}
        for name, line in LINES.items()
    }
    manifest, certificates = parse(**lines)
    assert (manifest, certificates) == (MANIFEST, (PROOF, SMOOTHED, SYNONYMS))
    for c in certificates:
        assert {type(c.index), type(c.label), type(c.prediction), type(c.hits)} <= {int, type(None)}
    assert type(manifest.n) is type(manifest.seed) is int


def test_what_is_no_plain_file_is_neither_read_nor_waited_for(tmp_path):
    pipe, content = tmp_path / "pipe", tmp_path / "content"
    os.mkfifo(pipe)
    for read in (read_certificates, file_digest):
        with pytest.raises(ValueError, match="is a named pipe, not a file"):
            read(pipe)
        with pytest.raises((ValueError, FileNotFoundError), match=r"No such file|no file"):
            read(tmp_path / "nothing")
    content.write_bytes(bytes(range(256)) * 5000)  # more than is read at a time
    assert file_digest(content) == hashlib.sha256(content.read_bytes()).hexdigest()
    with open(content, "wb") as file:
        file.truncate(2**31)  # takes no room on a disk
    with pytest.raises(ValueError, match="2 GiB, more than the limit of 1 GiB"):
        read_certificates(content)


distances = st.floats(0, 1e300)


@given(radius=distances, attack=st.none() | distances, label=st.integers(0, 10**6))
def test_every_radius_comes_back_bit_for_bit(radius, attack, label):
    proof = dataclasses.replace(PROOF, radius=radius, attack_radius=attack, label=label)
    outcome = "certified" if radius else "unproven" if label == 1 else "wrong"
    line = {"kind": "certificate", **dataclasses.asdict(proof), "outcome": outcome}
    assert parse(proof=line)[1][0] == proof


def old_lines():
    """As schema 1 wrote them."""
    lines = copy.deepcopy(LINES)
    lines["manifest"]["schema"] = 1
    del lines["manifest"]["precision"], lines["manifest"]["language"]
    for name in ("proof", "smoothed", "synonyms"):
        del lines[name]["replaceable"], lines[name]["outcome"]
    return lines


def test_files_of_schema_1_are_read():
    manifest, certificates = parse(**old_lines())
    assert manifest == dataclasses.replace(MANIFEST, precision=None)
    assert certificates == (PROOF, SMOOTHED, dataclasses.replace(SYNONYMS, replaceable=None))
    assert certificates[2].covers_all_words


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("manifest", "precision", "float32"),
        ("manifest", "language", None),
        ("synonyms", "replaceable", 2),
        ("proof", "outcome", "wrong"),
    ],
)
def test_files_of_schema_1_know_nothing_newer(name, field, value):
    lines = old_lines()
    lines[name][field] = value
    with pytest.raises(ValueError, match=rf"line \d, {field}: unknown in a file of schema 1"):
        parse(**lines)


@pytest.mark.parametrize(
    ("certificate", "outcome"),
    [
        (PROOF, "certified"),
        (dataclasses.replace(PROOF, radius=0.0), "unproven"),
        (dataclasses.replace(PROOF, radius=0.0, prediction=0), "wrong"),
        (SMOOTHED, "abstained"),
        (dataclasses.replace(SMOOTHED, prediction=0), "wrong"),
    ],
)
def test_a_radius_of_zero_says_why(certificate, outcome):
    assert certificate.outcome == outcome
    line = {"kind": "certificate", **dataclasses.asdict(certificate), "outcome": outcome}
    assert parse(proof=line, smoothed=LINES["synonyms"], synonyms=LINES["proof"] | {"index": 5})
    for other in {"certified", "unproven", "wrong", "abstained"} - {outcome}:
        with pytest.raises(ValueError, match=f"which make it '{outcome}'"):
            parse(proof=line | {"outcome": other})


def test_a_radius_beyond_all_words_is_told_from_others():
    assert SYNONYMS.covers_all_words
    assert not dataclasses.replace(SYNONYMS, radius=8.0).covers_all_words


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    bad = dataclasses.replace(PROOF, radius=float("nan"))
    with pytest.raises(ValueError, match="line 2 is not valid JSON: NaN"):
        write_certificates(tmp_path / "c.jsonl", MANIFEST, [bad])
    assert not list(tmp_path.iterdir())


def test_the_schema_is_a_schema_and_knows_every_field():
    schema = json.loads(
        resources.files("robustprune.certify").joinpath("schema.json").read_text("utf-8")
    )
    Draft202012Validator.check_schema(schema)
    for kind, line in (("manifest", "manifest"), ("certificate", "proof")):
        described = schema["$defs"][kind]
        assert set(described["properties"]) == set(described["required"]) == set(LINES[line])
        assert described["additionalProperties"] is False
    methods = schema["$defs"]["certificate"]["properties"]["method"]["enum"]
    assert methods == [*METHODS, "smoothing", "synonyms"]
    for line in LINES.values():
        Draft202012Validator(schema).validate(json.loads(json.dumps(line)))


def paths(tree, before=()):
    """Every field, nested ones too."""
    for key, value in tree.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, (*before, key))


@pytest.mark.parametrize("name", LINES)
def test_no_field_may_miss_change_its_type_or_be_unknown(name):
    for *way, key in paths(LINES[name]):
        for change in ("remove", "retype", "add"):
            line = copy.deepcopy(LINES[name])
            node = line
            for step in way:
                node = node[step]
            if change == "remove":
                del node[key]
            elif change == "retype":
                node[key] = [True]
            else:
                node[key + "_"] = node[key]
            with pytest.raises(ValueError, match=r"^c\.jsonl, line \d"):
                parse(**{name: line})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("manifest", {"schema": 3}, "line 1, schema: 2 was expected"),
        ("manifest", {"weights": SHA[:-1]}, "line 1, weights: .* does not match"),
        ("manifest", {"precision": "int8"}, "line 1, precision: 'int8' is not one of"),
        ("synonyms", {"replaceable": None}, "line 4, replaceable: a number for synonyms"),
        ("proof", {"replaceable": 2}, "line 2, replaceable: 2 is not of type 'null'"),
        ("manifest", {"eps": 0}, "line 1, eps: 0 is less than or equal to the minimum"),
        ("manifest", {"bounds": [1.0, 0.0]}, r"line 1, bounds: must be \[low, high\]"),
        ("manifest", {"bounds": [0.0]}, "line 1, bounds: .* is too short"),
        ("manifest", {"n": 0}, "line 1, n: 0 is less than the minimum of 1"),
        ("manifest", {"total_failure": 1.5}, "total_failure: 1.5 is greater than the maximum"),
        ("manifest", {"limits": []}, "line 1, limits: "),
        ("manifest", {"kind": "certificate"}, "line 1, kind: 'manifest' was expected"),
        ("manifest", {"norm": "words"}, "line 1, norm: 'words' is not one of"),
        ("proof", {"norm": "words"}, "line 2, norm: 'words' is not one of"),
        ("synonyms", {"norm": "l2"}, "line 4, norm: 'words' was expected"),
        ("synonyms", {"radius": 1.5}, "line 4, radius: 1.5 is not of type 'integer'"),
        ("proof", {"kind": "manifest"}, "line 2, kind: 'certificate' was expected"),
        ("proof", {"index": -1}, "line 2, index: -1 is less than the minimum"),
        ("proof", {"index": 0.5}, "line 2, index: 0.5 is not of type 'integer'"),
        ("proof", {"label": True}, "line 2, label: True is not of type 'integer'"),
        ("proof", {"radius": -0.1}, "line 2, radius: -0.1 is less than the minimum"),
        ("proof", {"radius": 1e301}, "line 2, radius: 1e.301 is greater than the maximum"),
        ("proof", {"norm": "l0"}, "line 2, norm: 'l0' is not one of"),
        ("proof", {"method": "faith"}, "line 2, method: 'faith' is not one of"),
        ("proof", {"guarantee": "all"}, "line 2, guarantee: 'all' is not one of"),
        ("proof", {"guarantee": "smoothed"}, "line 2"),
        ("proof", {"confidence": 0.99}, "line 2, confidence: 1 was expected"),
        ("proof", {"prediction": None}, "line 2, prediction: None is not of type 'integer'"),
        ("proof", {"hits": 3}, "line 2, hits: 3 is not of type 'null'"),
        ("proof", {"method": "smoothing"}, "line 2, method: "),
        (
            "proof",
            {"settings": {"eps_max": 1.0, "rounds": 10**9, "steps": 20}},
            "settings.rounds: ",
        ),
        ("smoothed", {"radius": 0.1}, "line 3, radius: 0 was expected"),
        ("smoothed", {"norm": "linf"}, "line 3, norm: 'l2' was expected"),
        ("smoothed", {"confidence": 1.0}, "line 3, confidence: 1.0 is greater than or equal"),
        ("smoothed", {"attack_radius": 0.2}, "line 3, attack_radius: "),
        ("smoothed", {"hits": None}, "line 3, hits: None is not of type 'integer'"),
        ("smoothed", LINES["proof"], "example 1 has a certificate by crown on line 2"),
    ],
)
def test_refusals(name, change, message):
    with pytest.raises(ValueError, match=message):
        parse(**{name: {**LINES[name], **change}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is cut off or empty"),
        ("\n", "line 1 is not valid JSON"),
        (text_of()[:-1], "it is cut off or empty"),
        (text_of() + "\n", "line 5 is not valid JSON"),
        (text_of() + "[]\n", "line 5: .* is not of type 'object'"),
        (text_of().replace('"radius": 0.0625', '"radius": Infinity'), "Infinity is not a JSON"),
        (text_of().replace('"radius": 0.0625', '"radius": 1e999'), "radius: inf is greater"),
        (text_of().replace('"index": 1', '"index": 1, "index": 0', 1), "a field is given twice"),
        ("[" * 100_000 + "\n", "line 1 is not valid JSON"),
    ],
)
def test_texts_that_are_no_certificates(text, message):
    with pytest.raises(ValueError, match=message):
        parse_certificates(text, source="c.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        text_of().replace('"radius": 0.0625', f'"radius": "{"9" * 10**6}"'),
        text_of().replace('"index": 1', f'"{"x" * 10**6}": 1, "index": 1, "index": 0', 1),
    ],
)
def test_a_message_quotes_no_more_of_a_file_than_a_reader_needs(text):
    with pytest.raises(ValueError, match="line 2") as refused:
        parse_certificates(text, source="c.jsonl")
    assert len(str(refused.value)) < 600


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "certificates.jsonl"
    with pytest.raises(ValueError, match=r"cannot read .*certificates\.jsonl: No such file"):
        read_certificates(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_certificates(path)


def test_total_failure_is_the_union_bound():
    assert total_failure([PROOF]) == 0
    assert total_failure([PROOF, SMOOTHED, SMOOTHED]) == pytest.approx(0.002)
    assert total_failure([dataclasses.replace(SMOOTHED, confidence=0.4)] * 2) == 1


def test_tensor_digest_knows_values_shape_and_dtype_not_the_layout():
    x = torch.arange(12.0).reshape(3, 4)
    digest = tensor_digest(x)
    assert digest == tensor_digest(x.T.contiguous().T)
    others = [x.reshape(4, 3), x.double(), x.bfloat16(), -x, x + torch.finfo().eps, x.T]
    assert digest not in {tensor_digest(other) for other in others}
    assert tensor_digest(x, x) != tensor_digest(torch.cat((x, x)))
    stated = b"float32(1,)" + struct.pack("<f", 1.0)
    assert tensor_digest(torch.ones(1)) == hashlib.sha256(stated).hexdigest()
