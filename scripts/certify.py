#!/usr/bin/env python
"""Certify your own network: `python scripts/certify.py --help`."""

import sys

from robustprune.cli.certify import certify_script

if __name__ == "__main__":
    sys.exit(certify_script())
