"""A student that learns from a teacher through many terms, each booked raw, weight and weighted, brought in by a curriculum.

`curriculum` (no torch) says when each term counts.
"""
