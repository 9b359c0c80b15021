"""Floor 4: the front door. `crosstune run · plan · repair · show · list`."""
