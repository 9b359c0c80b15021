"""The repair study: how much of what a fine-tune forgot can be given back, at what price, and where?

settings → plan → flow (one cell a seed, or a pair of models: `cell`) → summary over seeds → verdicts → page.
"""
