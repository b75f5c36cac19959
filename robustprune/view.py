"""The former name of `robustprune.packing`, which older programs and checkpoints have."""

from robustprune.packing import *  # noqa: F403
