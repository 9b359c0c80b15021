"""The study `distill`: a small model learns from a larger one in several ways, and it is measured which of them pay.

settings → study (one cell a seed, each student a phase) → summary (students against each other) → page.
"""
