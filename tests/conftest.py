"""Settings of the whole test suite."""

import os

from hypothesis import HealthCheck, settings

# Side by side (`pytest -n 2`) torch processes of several threads each take turns at the cores and
# crawl: one thread each, set before anything imports torch, for the processes that tests start too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Timings never decide a test: machines that run it may be busy.
settings.register_profile(
    "robustprune", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("robustprune")
