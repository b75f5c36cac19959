#!/usr/bin/env python
"""Prune by ADMM under attack: `python scripts/prune_admm.py --help`."""

import sys

from robustprune.cli import PRUNE_ADMM, run_script

if __name__ == "__main__":
    sys.exit(run_script(PRUNE_ADMM))
