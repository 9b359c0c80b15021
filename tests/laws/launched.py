"""The command `crosstune` in a process of its own that takes part in what tests/elsewhere.py changes."""

from __future__ import annotations

import sys

from crosstune.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
