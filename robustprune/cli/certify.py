"""`robustprune certify` writes lower bounds on r* of your own network to certificates.jsonl."""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustprune.cli.own import add_own_options, load_own, named_settings
from robustprune.cli.shared import (
    Examples,
    Parser,
    add_command,
    add_output_options,
    answer,
    describe,
    guarded,
    number,
    path_argument,
    silent,
)

METHODS = ("none", "ibp", "crown-ibp", "crown", "alpha-crown")
_ABOUT = (
    "Certify your own network: for each example a radius within which no change of the input\n"
    "changes the answer, by deterministic bounds (a proof) or by smoothing (with a probability)."
)
_EXAMPLES: Examples = (
    ("nets:build --state net.safetensors --config rst_ecg200 --examples 20", "by CROWN"),
    (
        "nets:build --state net.safetensors --data test.npz --eps 0.1 --method alpha-crown",
        "tighter, slower, on your own arrays",
    ),
    (
        "nets:build --data test.npz --method none --sigma 0.25",
        "the smoothed classifier, in L2, with the weights that the function gives",
    ),
)
_CLOSING = (
    "Exit status: 0 done, 1 done but nothing is certified, 2 bad input. The digests of the file\n"
    "bind it to weights and data."
)


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands,
        "certify",
        "certificates.jsonl of your own network: lower bounds on r*",
        about=_ABOUT,
        examples=_EXAMPLES,
        run=_certify,
        closing=_CLOSING,
    )
    _add_options(parser)


def certify_script(arguments: Sequence[str] | None = None) -> int:
    """Run scripts/certify.py and return the exit status."""
    parser = Parser(prog="certify.py")
    describe(parser, _ABOUT, _EXAMPLES, closing=_CLOSING)
    add_output_options(parser)
    _add_options(parser)
    options = parser.parse_args(arguments)
    return guarded(lambda: _certify(options))


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_own_options(parser)
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="crown",
        help="method of the bounds (default: %(default)s)",
    )
    parser.add_argument(
        "--sigma",
        type=number,
        help="sd of the noise for smoothing, in input units (default: no smoothing)",
    )
    parser.add_argument(
        "--n0", type=int, default=100, help="noisy samples that choose the class (default: 100)"
    )
    parser.add_argument(
        "--n", type=int, default=10_000, help="samples that certify (default: 10000)"
    )
    parser.add_argument(
        "--alpha",
        type=number,
        default=0.001,
        help="failure probability of each claim (default: 0.001)",
    )
    path_argument(
        parser,
        "--out",
        folder=True,
        type=Path,
        default=Path("certificates"),
        help="folder for certificates.jsonl and certify.json (default: %(default)s)",
    )


def _certify(options: argparse.Namespace) -> int:
    from robustprune.pipeline.own import certify_network
    from robustprune.run.config import parse_config

    fields = ("method", "sigma", "n0", "n", "alpha")
    section = parse_config(
        {"certify": {name: getattr(options, name) for name in fields}}, source="options"
    ).certify
    if section.method == "none" and section.sigma is None:
        raise ValueError("nothing to certify with; give --method, such as crown, or --sigma")
    # radii by smoothing do not depend on eps; the file's header gets sigma in its place
    smoothed = section.sigma if section.method == "none" else None
    model, problem = load_own(options, eps_of=smoothed)
    told = options.eps is not None or bool(options.config)
    if problem.threat.support is not None:
        raise ValueError(
            "certificates of sentences are no command yet; use robustprune.certify.certify(model, "
            "x, sigma=..., support=words)"
        )
    path, certificates = certify_network(
        model,
        problem,
        section,
        options.out,
        named=options.model,
        state=options.state,
        settings=named_settings(options, *fields),
        seed=options.seed,
        batch_size=options.batch_size,
        quiet=silent(options),
    )
    eps = float(problem.threat.eps)
    methods: dict[str, dict[str, Any]] = {
        method: {
            "n": len(radii),
            "median_radius": statistics.median(radii),
            "beyond_eps": sum(radius > eps for radius in radii) if told else None,
            "outcomes": Counter(c.outcome for c in certificates if c.method == method),
        }
        for method in dict.fromkeys(c.method for c in certificates)
        if (radii := [c.radius for c in certificates if c.method == method])
    }
    idle = [method for method, f in methods.items() if f["outcomes"]["certified"] == 0]

    def show() -> None:
        print(path)
        for method, figures in methods.items():
            norm = "l2" if method == "smoothing" else problem.threat.norm
            count = f"{figures['beyond_eps']} of {figures['n']} beyond eps {eps:g}, "
            print(
                f"  {method}: {count if told else ''}median radius "
                f"{figures['median_radius']:.4g} ({norm}, lower bound)"
            )
            print(f"    {_spelt(figures['outcomes'])}")
        for method in idle:
            print(f"nothing is certified by {method}: {_WHY}")

    answer(
        options,
        {"file": str(path), "eps": eps if told else None, "methods": methods, "idle": idle},
        show,
    )
    return 1 if idle else 0


def _spelt(outcomes: Mapping[str, int]) -> str:
    """Write the outcomes as: 12 certified, 3 answered wrongly, 5 without a proof."""
    return ", ".join(f"{outcomes[one]} {said}" for one, said in _SAID.items() if outcomes.get(one))


_SAID = {
    "certified": "certified",
    "wrong": "answered wrongly",
    "abstained": "without a clear majority under the noise",
    "unproven": "answered rightly, and without a proof",
}
_WHY = (
    "where the answers are right, the bounds are too loose for this network, or the noise too "
    "strong; try a tighter --method, a smaller --sigma, or a network trained for it"
)
