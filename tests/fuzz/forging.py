"""Run directories with certificates, made in no time and without a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import nn

from attacks import ThreatModel
from robustprune.certify import (
    Certificate,
    read_certificates,
    write_certificates,
)
from robustprune.certify.smoothing import smoothed_radius
from robustprune.measure.statistics import clopper_pearson
from robustprune.models import build_model
from robustprune.pipeline.prepare import task_of
from robustprune.pipeline.run_certificates import certified_examples, issue, manifest_of
from robustprune.run.checkpoint import save_tensors
from robustprune.run.config import Config, load_config, parse_config
from robustprune.run.rundir import RunDir
from robustprune.tasks import Task

FILE, WEIGHTS, MASKS = "certificates.jsonl", "model.safetensors", "masks.safetensors"
SIGMA, N, ALPHA = 0.5, 500, 0.001

Rng = np.random.Generator


@dataclass(frozen=True)
class Made:
    """A run directory and what it was made from."""

    folder: Path
    config: Config
    task: Task
    model: nn.Module

    @property
    def certificates(self) -> list[Certificate]:
        return list(read_certificates(self.folder / FILE)[1])

    def state(self, certificates: list[Certificate], **manifest: object) -> None:
        """Write certificates with the manifest that fits them and the files, or other values."""
        config = load_config(self.folder / "config.yaml")
        headline = json.loads((self.folder / "metrics.json").read_text())["headline"]
        fitting = manifest_of(
            config, task_of(config, None), RunDir(self.folder), headline, certificates
        )
        write_certificates(
            self.folder / FILE,
            replace(fitting, **manifest),
            certificates,  # type: ignore[arg-type]
        )

    def configure(self, **certify: Any) -> None:
        """Change what the config asks for."""
        tree = self.config.model_dump(mode="json")
        tree["certify"] |= certify
        (self.folder / "config.yaml").write_text(parse_config(tree).to_yaml())


def honest_run(folder: Path, seed: int, *, examples: int = 4, **certify: Any) -> Made:
    """Three blobs, a small network with half of its first weights removed, both kinds of claims."""
    rng = np.random.default_rng(seed)
    y = np.arange(60) % 3
    x = (rng.normal(size=(60, 4)) * 0.5 + 2 * np.eye(4)[y]).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.manual_seed(seed)
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.weight, std=0.5)
    keep = torch.rand(8, 4, generator=torch.Generator().manual_seed(seed)) < 0.7
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(150):
        noisy = inputs + 0.3 * torch.randn(inputs.shape)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(noisy), labels).backward()
        optimizer.step()
        with torch.no_grad():
            model[0].weight *= keep
    settings = {"method": "crown-ibp", "sigma": SIGMA, "n": N, "alpha": ALPHA, **certify}
    made = _written(folder, x, y, [8], settings, examples)
    network = made.model
    for name, source in zip(("linear1", "classifier"), (model[0], model[2]), strict=True):
        getattr(network, name).load_state_dict(source.state_dict())
    save_tensors(folder / WEIGHTS, network.state_dict())
    save_tensors(folder / MASKS, {"linear1.weight": keep})
    return _certified(made)


def half_space_run(folder: Path, distance: float, **certify: Any) -> Made:
    """A linear network of two classes, and two examples at `distance` from its boundary: the
    smoothed classifier's certified radius can't be more, by symmetry."""
    w = np.ones(4) / 2.0
    x = np.stack([distance * w, distance * w + np.array([1e-3, -1e-3, 0, 0])]).astype(np.float32)
    x = np.concatenate([x, -x])
    y = np.array([0, 0, 1, 1])
    made = _written(folder, x, y, [], {"sigma": SIGMA, "n": N, "alpha": ALPHA, **certify}, 2)
    with torch.no_grad():
        made.model.classifier.weight.copy_(100 * torch.tensor(np.stack([w, -w])))
        made.model.classifier.bias.zero_()
    save_tensors(folder / WEIGHTS, made.model.state_dict())
    return _certified(made)


def _written(
    folder: Path, x: Any, y: Any, hidden: list[int], certify: dict[str, Any], examples: int
) -> Made:
    folder.mkdir(parents=True)
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    config = parse_config(
        {
            "name": "forged",
            "task": {"name": "npz", "path": str(folder / "d.npz")},
            "model": {"name": "mlp", "options": {"hidden": hidden}},
            "threat": {"norm": "linf", "eps": 0.1},
            "certify": {"examples": examples, **certify},
        }
    )
    (folder / "config.yaml").write_text(config.to_yaml())
    (folder / "metrics.json").write_text('{"headline": "rst"}')
    task = task_of(config, None)
    return Made(folder, config, task, build_model("mlp", task, options=config.model.options).eval())


def _certified(made: Made) -> Made:
    threat = ThreatModel(made.config.threat.norm, made.config.threat.eps, made.task.bounds)
    x, y = certified_examples(made.config, made.task)
    section = made.config.certify
    made.state(issue(made.model, x, y, threat, section, seed=made.config.seed, batch_size=50))
    return made


def copied(made: Made, folder: Path) -> Made:
    """The same in another folder, data included."""
    shutil.copytree(made.folder, folder)
    config = made.config.model_dump(mode="json")
    config["task"]["path"] = str(folder / "d.npz")
    parsed = parse_config(config)
    (folder / "config.yaml").write_text(parsed.to_yaml())
    again = Made(folder, parsed, made.task, made.model)
    again.state(made.certificates)
    return again


def with_settings(c: Certificate, **values: float) -> Certificate:
    return replace(c, settings={**c.settings, **values})


def radius_that_its_hits_give(c: Certificate, hits: int, **settings: float) -> Certificate:
    """A statement about other samples, as if they had been drawn."""
    c = with_settings(c, **settings)
    n, alpha = int(c.settings["n"]), float(c.settings["alpha"])
    p_lower = clopper_pearson(np.array([hits]), n, alpha)[0]
    radius = float(smoothed_radius(p_lower, float(c.settings["sigma"]))[0])
    return replace(c, hits=hits, radius=radius, prediction=c.label, confidence=1 - alpha)


def beyond_the_truth(made: Made, distance: float, factor: float, rng: Rng) -> None:
    """Claim radii of `factor` times the distance to a plane, which is the true one, from samples
    that were never drawn: as many as such a radius needs, in the config too."""
    alpha = float(rng.choice([0.001, 0.05, 0.4]))
    wanted = factor * distance / SIGMA
    share = 1 - float(np.exp(np.log(alpha) / 10**9))  # what 1e9 hits of 1e9 leave to misses
    assert wanted < -ndtri(share), "no number of hits that may be stated gives such a radius"
    n = next(
        n
        for n in np.unique(np.geomspace(10, 10**9, 400).astype(int)).tolist()
        if float(smoothed_radius(clopper_pearson(np.array([n]), n, alpha)[0], 1.0)[0]) >= wanted
    )
    made.configure(n=n, alpha=alpha)
    made.state([radius_that_its_hits_give(c, n, n=n, alpha=alpha) for c in made.certificates])
    assert all(c.radius >= factor * distance for c in made.certificates)
