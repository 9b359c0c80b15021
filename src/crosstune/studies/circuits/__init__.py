"""The circuit study: which attention heads do two tasks fight over, sample by sample?

settings → plan → flow (one cell a checkpoint and pair of tasks: `cell`) → summary → verdicts → page.
"""
