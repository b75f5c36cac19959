#!/usr/bin/env python
"""Find a robust scratch ticket: `python scripts/find_rst.py --help`."""

import sys

from robustprune.cli import find_rst

if __name__ == "__main__":
    sys.exit(find_rst())
