"""The tests; CROSSTUNE_ARITHMETIC=1 runs them with another machine's rounding, CROSSTUNE_SEEDS=1 on other random numbers (elsewhere.py)."""

import os

if "CROSSTUNE_ARITHMETIC" in os.environ or "CROSSTUNE_SEEDS" in os.environ:
    from tests import elsewhere

    elsewhere.begin(os.environ.get("CROSSTUNE_ARITHMETIC"), os.environ.get("CROSSTUNE_SEEDS"))
