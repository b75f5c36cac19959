#!/usr/bin/env python
"""Prune without training, layer by layer: `python scripts/prune_layerwise.py --help`."""

import sys

from robustprune.cli import PRUNE_LAYERWISE, run_script

if __name__ == "__main__":
    sys.exit(run_script(PRUNE_LAYERWISE))
