"""The conflict study: what do tasks learned one after another do to each other, and where?

settings → plan → flow (one cell a seed: `cell`) → summary over seeds → verdicts → page.
"""
