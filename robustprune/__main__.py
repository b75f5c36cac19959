"""`python -m robustprune` is the same as `robustprune`."""

import sys

from robustprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
