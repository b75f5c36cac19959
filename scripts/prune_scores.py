#!/usr/bin/env python
"""Prune by learned scores, HYDRA and HARP: `python scripts/prune_scores.py --help`."""

import sys

from robustprune.cli import PRUNE_SCORES, run_script

if __name__ == "__main__":
    sys.exit(run_script(PRUNE_SCORES))
