"""Settings of the whole test suite."""

from hypothesis import HealthCheck, settings

# Timings never decide a test: machines that run it may be busy.
settings.register_profile(
    "robustprune", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("robustprune")
