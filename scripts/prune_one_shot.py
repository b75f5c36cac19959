#!/usr/bin/env python
"""Prune by a score computed once: `python scripts/prune_one_shot.py --help`."""

import sys

from robustprune.cli import PRUNE_ONE_SHOT, run_script

if __name__ == "__main__":
    sys.exit(run_script(PRUNE_ONE_SHOT))
