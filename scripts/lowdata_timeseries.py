#!/usr/bin/env python
"""Few time series, robust and small: `python scripts/lowdata_timeseries.py --help`."""

import sys

from robustprune.cli import LOWDATA_TIMESERIES, run_script

if __name__ == "__main__":
    sys.exit(run_script(LOWDATA_TIMESERIES))
