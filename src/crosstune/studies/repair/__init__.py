"""The repair study: how much of what a fine-tune forgot can be given back, at what price, and where?

settings → prepare → cell (one a seed, or a pair of models) → study (over seeds) → verdicts → page; costs is the plan.
"""
