"""Settings of the whole test suite."""

import os
import random

import pytest
from hypothesis import HealthCheck, settings

# Side by side (`pytest -n 2`) torch processes of several threads each take turns at the cores and
# crawl: one thread each, set before anything imports torch, for the processes that tests start too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Timings never decide a test: machines that run it may be busy. Examples are the same in each run,
# so that a test which passed for a change passes for it again; new ones, and more of them:
# HYPOTHESIS_PROFILE=search pytest
settings.register_profile(
    "robustprune", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("search", settings.get_profile("robustprune"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "robustprune"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The same random numbers in each test, whatever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
