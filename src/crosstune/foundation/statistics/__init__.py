"""Statistics: tensors in, tensors out, float64; each interval says what it is conditioned on.

intervals     means, ratios and jackknifed figures with t-intervals
series        what dependent values are worth: effective sample size, block bootstrap
paired        two arms over the same seeds and items
winners       is the largest really the largest?
multiplicity  Holm, Benjamini–Hochberg, bands for all at once, the smallest p a design can give
two_way       means of a table whose rows and columns were both drawn
reliability   how far profiles agree: signal in one by two halves, rank correlation of two
"""

from __future__ import annotations
