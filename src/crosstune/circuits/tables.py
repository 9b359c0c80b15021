"""The columns of a circuit measurement's tables: means of heads, slices of a Fisher, top pairs, changes and an ablation."""

from __future__ import annotations

from crosstune.foundation.records import Column

HEADS = "circuit_heads"
SLICES = "circuit_slices"
PAIRS = "circuit_pairs"
CHANGES = "circuit_changes"
ABLATION = "circuit_ablation"

_BLOCK = Column.axis("block", about="Projection: q, k, v or o.")
_PLACE = (
    Column.axis("layer", "int64", about="Index of the layer, from 0."),
    _BLOCK,
    Column.axis("head", "int64", about="Query head in q and o, key-value head in k and v; from 0."),
)
_FISHER = Column.axis("fisher", about="Whose squared gradients normalise it.")
_FORM = (Column.axis("variant", about="directional, signed, symmetric, ewc or kfac."), _FISHER)
_TWO_WAY = "t-interval over the rows of A and of B, by group where rows have groups; conditional on the Fisher."
_SAMPLES = (
    Column.label("n_a", "int64", about="Samples of task A."),
    Column.label("n_b", "int64", about="Samples of task B."),
    Column.label(
        "units_a", "int64", about="Independent samples of A: groups, and copies, count once."
    ),
    Column.label("units_b", "int64", about="Likewise of B."),
)


HEADS_COLUMNS = (
    *_PLACE,
    *_FORM,
    Column.value("mean", about="Mean score over all pairs of a sample of A and one of B."),
    *Column.bounds("mean", about=_TWO_WAY),
    Column.label("df", "float64", about="Degrees of freedom of that interval."),
    Column.label(
        "p", "float64", about="Two-sided, of a mean of 0; none where a score cannot be negative."
    ),
    Column.label(
        "p_adjusted", "float64", about="Benjamini–Hochberg over the heads of a block and variant."
    ),
    Column.label(
        "band_low",
        "float64",
        about="Lower band; all bands of a block and variant hold at once (max-T).",
    ),
    Column.label("band_high", "float64", about="Upper band."),
    Column.label(
        "contrast",
        "float64",
        about="The mean less what `against` says; none where scores are not invariant to rescaling a head's weights.",
    ),
    Column.label(
        "contrast_low",
        "float64",
        about="Lower band of the contrast; those of a block and variant hold at once (max-T).",
    ),
    Column.label("contrast_high", "float64", about="Upper band of the contrast."),
    Column.label(
        "shown",
        "bool",
        about="Whether the band of the contrast, one of bands that hold for all heads at once, excludes 0.",
    ),
    Column.label(
        "against",
        about="0, or the mean head of the block for symmetric scores; empty for directional and EWC scores, which are not "
        "invariant to rescaling a head's weights.",
    ),
    Column.value(
        "own_a",
        about="Mean score over pairs of two independent samples of A; none for directional and EWC scores.",
    ),
    *Column.bounds(
        "own_a",
        about="Jackknife over the rows of A, by group where rows have groups; none below four.",
    ),
    Column.value("own_b", about="Likewise of B."),
    *Column.bounds("own_b", about="Jackknife over the rows of B."),
    Column.value(
        "cosine",
        about="Mean over independent pairs of two tasks / √(own_a · own_b): of both tasks' mean gradients (signed) or mean "
        "magnitudes (symmetric), corrected for the noise of single samples. 1 is two halves of one task.",
    ),
    *Column.bounds(
        "cosine",
        about="Jackknife over the rows of A and of B, by group where rows have groups; conditional on the Fisher.",
    ),
    Column.mask(
        "resolved",
        of="cosine",
        about="Whether own_a and own_b are both shown to lie above 0, after Benjamini–Hochberg over the heads of a block: there is a cosine.",
    ),
    Column.value(
        "mean_l1",
        about="Mean over B of the column mean / ‖g_j‖₁, directional only: invariant to rescaling; 1 for all heads says nothing of A.",
    ),
    Column.value(
        "reliability",
        about="Share of the mean's square that is not error: (mean² − SE²) / mean², at least 0.",
    ),
    Column.mask("reliable", of="mean", about="Whether the reliability is at least 0.2."),
    Column.value(
        "rank_reliability",
        about="How alike two halves of the samples rank those of the other task: Spearman–Brown, the smaller over A and B.",
    ),
    *_SAMPLES,
)

SLICES_COLUMNS = (
    *_PLACE,
    _FISHER,
    Column.value("min", about="Smallest entry of the slice."),
    Column.value("median", about="Median entry."),
    Column.value("max", about="Largest entry."),
    Column.value("below_epsilon", about="Share of entries below ε."),
    Column.value("damping", about="λ that was used."),
)

PAIRS_COLUMNS = (
    *_PLACE,
    *_FORM,
    Column.axis("rank", "int64", about="Place in its list, from 1."),
    Column.axis(
        "row_a", about="Id of the sample of A; empty where a score is of B's sample alone."
    ),
    Column.axis("row_b", about="Id of the sample of B."),
    Column.label("text_a", about="What A's sample says."),
    Column.label("text_b", about="What B's sample says."),
    Column.value("score", about="The pair's score."),
)

CHANGES_COLUMNS = (
    *_PLACE,
    *_FORM,
    Column.value("first", about="Mean score of the first measurement."),
    Column.value("second", about="Mean score of the second."),
    Column.value("change", about="Second minus first, over the same pairs of samples."),
    *Column.bounds("change", about=_TWO_WAY),
    Column.label("p", "float64", about="Two-sided, of no change."),
    Column.label("p_adjusted", "float64", about="Benjamini–Hochberg over the heads of a block."),
    *_SAMPLES,
)

ABLATION_COLUMNS = (
    _BLOCK,
    Column.axis("form_a", about="A variant under a Fisher."),
    Column.axis("form_b", about="Another."),
    Column.value(
        "spearman",
        about="Rank correlation of all scores of the block; by magnitude where only one of the two has a sign.",
    ),
    *Column.bounds(
        "spearman", about="Jackknife over folds of rows of A and of B, on the scale of atanh."
    ),
    Column.value(
        "overlap",
        about="Share that two lists of the 100 largest scores by magnitude have in common.",
    ),
    *Column.bounds(
        "overlap",
        about="Jackknife over folds of rows of A and of B; a guide, since a list is not smooth.",
    ),
    Column.label("cells", "int64", about="Scores compared: pairs × layers × heads."),
    Column.label("n_a", "int64", about="Samples of task A."),
    Column.label("n_b", "int64", about="Samples of task B."),
)
