"""The circuit study: how do two tasks meet in attention heads, sample by sample?

settings → plan → flow (one cell a checkpoint and pair of tasks: `cell`) → summary → verdicts → page.
"""
