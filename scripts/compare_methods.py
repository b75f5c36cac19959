#!/usr/bin/env python
"""Compare every method at one density: `python scripts/compare_methods.py --help`."""

import sys

from robustprune.cli import COMPARE_METHODS, run_script

if __name__ == "__main__":
    sys.exit(run_script(COMPARE_METHODS))
