#!/usr/bin/env python
"""Prune a language model without training: `python scripts/prune_lm.py --help`."""

import sys

from robustprune.cli import PRUNE_LM, run_script

if __name__ == "__main__":
    sys.exit(run_script(PRUNE_LM))
