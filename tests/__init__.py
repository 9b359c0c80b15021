"""The tests; with CROSSTUNE_ARITHMETIC=seed in the environment they run as on another machine (tests/arithmetic.py)."""

import os

if "CROSSTUNE_ARITHMETIC" in os.environ:
    from tests import arithmetic

    arithmetic.begin(int(os.environ["CROSSTUNE_ARITHMETIC"]))
