#!/usr/bin/env python
"""Train networks that are sparse from the start: `python scripts/train_sparse.py --help`."""

import sys

from robustprune.cli import TRAIN_SPARSE, run_script

if __name__ == "__main__":
    sys.exit(run_script(TRAIN_SPARSE))
