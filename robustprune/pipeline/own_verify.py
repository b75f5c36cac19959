"""Verify the certificates of the user's own network from the files and the data that are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError

from robustprune.certify import (
    CheckResult,
    asked_for,
    read_certificates,
    unchecked,
    verify_certificates,
)
from robustprune.certify.certificate import FILE
from robustprune.certify.claims import LIMIT
from robustprune.pipeline.own import SETTINGS, WEIGHTS
from robustprune.pipeline.own_data import Problem
from robustprune.pipeline.own_network import check_fits, load_network
from robustprune.pipeline.own_state import is_safetensors, state_bytes
from robustprune.pipeline.run_certificates import describe
from robustprune.run.files import read_bytes
from robustprune.run.settings import CertifySection, Count, Number, Positive, Section

#: the largest size of certify.json in bytes
_LARGEST = 2**20


class Asked(Section):
    """The content of certify.json: the options with which the certificates were made."""

    model: str
    state: str | None
    config: str | None
    data: str | None
    norm: Literal["linf", "l2", "l1"] | None
    eps: Positive | None
    bounds: tuple[Number, Number] | None
    examples: Count | None
    batch_size: Count
    seed: int
    overrides: tuple[str, ...]
    method: Literal["none", "ibp", "crown-ibp", "crown", "alpha-crown"]
    sigma: Positive | None
    n0: Count
    n: Count
    alpha: Number

    @property
    def section(self) -> CertifySection:
        return CertifySection(
            method=self.method, sigma=self.sigma, n0=self.n0, n=self.n, alpha=self.alpha
        )


def read_asked(folder: Path) -> Asked:
    """Read certify.json.

    Raises:
        ValueError: it is damaged, or has other options.
        FileNotFoundError: there is none.
    """
    path = folder / SETTINGS
    content = read_bytes(path, within=folder, most=_LARGEST)
    try:
        return Asked.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is not as certify writes it: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON") from error


@dataclass(frozen=True, eq=False)
class Named:
    """What the user names on the command line, because no file is trusted with it.

    Attributes:
        model: `package.module:function`, and `options` its arguments.
        state: the file of the weights; None for weights.safetensors beside the certificates.
        problem: a function from `Asked` to the examples and the threat model, read from the user's
            own data.
    """

    model: str
    options: dict[str, object]
    state: Path | None
    problem: Callable[[Asked], Problem]


def verify_own(
    folder: Path,
    asked: Asked,
    named: Named,
    *,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    limit: int = LIMIT,
    quiet: bool = True,
) -> list[CheckResult]:
    """Check certificates.jsonl of `robustprune certify` as a third party would; see
    `pipeline.verify.verify_run`.

    Args:
        folder: the folder with certificates.jsonl and certify.json.
        asked: `read_asked(folder)`.

    Raises:
        ValueError, OSError: the data, the network or its weights can't be loaded. Then nothing is
            known of the certificates.
    """
    stored = folder / WEIGHTS
    state = named.state or stored
    if named.state is None and not stored.is_file():
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}; name the file of the network's weights by --state"
        )
    if not state.is_file():
        raise FileNotFoundError(f"there is no state file {state}")
    problem = named.problem(asked)
    model = load_network(named.model, state, device, options=named.options)
    check_fits(model, problem.x, problem.y, named.model)
    try:
        stated, certificates = read_certificates(folder / FILE)
    except (ValueError, OSError) as error:
        return [CheckResult("files", False, " ".join(str(error).split()))]
    findings = [CheckResult("files", True, f"all can be read; {FILE} is as its schema says")]
    if not is_safetensors(state):
        same = stored.is_file() and read_bytes(stored, within=folder) == state_bytes(model)
        detail = f"{state} has the weights of {WEIGHTS}" if same else f"{WEIGHTS} has other weights"
        findings.append(CheckResult("weights", same, detail))
        if not same:
            return findings
        state = stored
    expected = describe(
        certificates,
        problem.x,
        problem.y,
        problem.threat,
        task=stated.task,  # a file may be renamed; the digest of its content counts
        model=named.model,
        weights=state,
        masks=None,
        config=folder / SETTINGS,
        seed=asked.seed,
    )
    findings += verify_certificates(
        stated,
        certificates,
        expected=expected,
        asked=asked_for(asked.section, float(problem.threat.eps), asked.seed),
        model=model,
        masks=None,
        x=problem.x,
        y=problem.y,
        seed=seed,
        batch_size=asked.batch_size,
        limit=limit,
        quiet=quiet,
    )
    # the name is taken from the file itself
    findings = [finding for finding in findings if finding.name != "manifest, task"]
    renamed = f"the file calls the data {stated.task}; the digest of their content is what counts"
    code = f"the file says nothing of the code of {named.model}; it is the one that you have"
    return [
        *findings,
        unchecked("manifest, task", renamed),
        unchecked("code of the network", code),
    ]
