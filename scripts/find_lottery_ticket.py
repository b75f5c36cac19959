#!/usr/bin/env python
"""Find a lottery ticket under attack: `python scripts/find_lottery_ticket.py --help`."""

import sys

from robustprune.cli import FIND_LOTTERY, run_script

if __name__ == "__main__":
    sys.exit(run_script(FIND_LOTTERY))
