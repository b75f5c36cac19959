#!/usr/bin/env python
"""Find a robust ticket of a language model: `python scripts/find_plm_ticket.py --help`."""

import sys

from robustprune.cli import FIND_PLM, run_script

if __name__ == "__main__":
    sys.exit(run_script(FIND_PLM))
