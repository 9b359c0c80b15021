"""Statistics: tensors in, tensors out, float64; each interval says what it is conditioned on.

intervals     means, ratios and jackknifed figures with t-intervals
series        what dependent values are worth: effective sample size, block bootstrap
paired        two arms over the same seeds and items
winners       is the largest really the largest?
multiplicity  Holm, and the smallest p a design can give
association   rank correlation with its interval
"""

from __future__ import annotations
