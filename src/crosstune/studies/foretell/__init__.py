"""The foretell study: do circuit scores, taken before a task is learned, foretell which heads and rows will forget?

settings → prepare → plan → flow (one cell a seed: `cell`, `scout`, `profiles`, `outcomes`) → joined → judging → verdicts → page.
"""
