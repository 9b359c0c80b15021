"""The rank study: how large a LoRA adapter must be for a task, and beyond which rank a larger one is not worth it.

settings → study (one cell a seed, each rank a phase) → fit (losses to a curve, a rank and a sentence) → page.
"""
