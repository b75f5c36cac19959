#!/usr/bin/env python
"""Find a robust scratch ticket: `python scripts/find_rst.py --help`."""

import sys

from robustprune.cli import FIND_RST, run_script

if __name__ == "__main__":
    sys.exit(run_script(FIND_RST))
