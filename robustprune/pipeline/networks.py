"""Build the network that a config names, and say what identifies it and its data."""

from __future__ import annotations

import torch
from torch import nn

from robustprune.models import build_model
from robustprune.pipeline.own_network import call_function, check_fits, code_digest
from robustprune.run.content import tensor_digest
from robustprune.run.fingerprint import digest_of
from robustprune.run.naming import is_function
from robustprune.run.settings import ModelSection
from robustprune.sparsity.plain import copy_of
from robustprune.tasks import Task


def build_network(section: ModelSection, task: Task) -> nn.Module:
    """Return a new network: one of `models.model_names()` for this task, or what the user's
    `package.module:function` gives with `model.options` as its arguments.

    The user's network takes examples in input units, because no layer is put before it. It is
    copied, because the function may return the same network at every call.

    Raises:
        ValueError: as in `models.build_model` and `own_network.call_function`.
    """
    if is_function(section.name):
        return copy_of(call_function(section.name, section.options))
    return build_model(section.name, task, options=section.options)


def check_network(section: ModelSection, task: Task, seed: int) -> nn.Module:
    """Build the network of a run and try it on the task's examples, if a function gives it.

    Raises:
        ValueError: as in `build_network` and `own_network.check_fits`; or two calls of the function
            with the same seed of torch give different weights, so that no run could be resumed.
    """
    model = _seeded(section, task, seed)
    if not is_function(section.name):
        return model
    model = _seeded(section, task, seed)  # again, because the first call may import the module
    x, y = task.train.batch(slice(3))
    check_fits(model.eval(), x, y, section.name)
    if digest_of(model) != digest_of(_seeded(section, task, seed)):
        raise ValueError(
            f"{section.name} gives other weights at each call, although torch.manual_seed({seed}) "
            "is called before; draw its random numbers from torch, so that a run can be repeated"
        )
    return model


def _seeded(section: ModelSection, task: Task, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random numbers
        torch.default_generator.manual_seed(seed)
        return build_network(section, task)


def origin_of(section: ModelSection, task: Task, *, own_data: bool) -> dict[str, str]:
    """Return digests of what a config only names: the user's code, and the user's data.

    Args:
        own_data: whether the data come from a path that the config names.
    """
    origin = {}
    if is_function(section.name):
        origin["network"] = code_digest(section.name)
    if own_data:
        origin["data"] = data_digest(task)
    return origin


def data_digest(task: Task) -> str:
    """Return a digest of all examples of a task, the training and the test ones."""
    return tensor_digest(task.train.x, task.train.y, task.test.x, task.test.y)[:16]
