"""The columns of a circuit measurement's tables: means of heads, slices of a Fisher, top pairs, changes and an ablation."""

from __future__ import annotations

from crosstune.foundation.records import Column

HEADS = "circuit_heads"
SLICES = "circuit_slices"
PAIRS = "circuit_pairs"
CHANGES = "circuit_changes"
ABLATION = "circuit_ablation"

_LAYER = Column("layer", "int64", "axis", about="Index of the layer, from 0.")
_BLOCK = Column("block", "string", "axis", about="Projection: q, k, v or o.")
_HEAD = Column(
    "head", "int64", "axis", about="Query head in q and o, key-value head in k and v; from 0."
)
_PLACE = (_LAYER, _BLOCK, _HEAD)
_VARIANT = Column("variant", "string", "axis", about="directional, signed, symmetric, ewc or kfac.")
_FISHER = Column("fisher", "string", "axis", about="Whose squared gradients normalise it.")
_FORM = (_VARIANT, _FISHER)
_TWO_WAY = "t-interval over the rows of A and of B, by group where rows have groups; conditional on the Fisher."
_SAMPLES = (
    Column("n_a", "int64", "label", about="Samples of task A."),
    Column("n_b", "int64", "label", about="Samples of task B."),
    Column("units_a", "int64", "label", about="Rows or groups of A that were drawn independently."),
    Column("units_b", "int64", "label", about="Rows or groups of B that were drawn independently."),
)


def _bounds(name: str, about: str) -> tuple[Column, Column]:
    return (
        Column(f"{name}_low", "float64", "low", of=name, about=about),
        Column(f"{name}_high", "float64", "high", of=name, about=about),
    )


HEADS_COLUMNS = (
    *_PLACE,
    *_FORM,
    Column(
        "mean", "float64", "value", about="Mean score over all pairs of a sample of A and one of B."
    ),
    *_bounds("mean", _TWO_WAY),
    Column("df", "float64", "label", about="Degrees of freedom of that interval."),
    Column(
        "p",
        "float64",
        "label",
        about="Two-sided, of a mean of 0; none where a score cannot be negative.",
    ),
    Column(
        "p_adjusted",
        "float64",
        "label",
        about="Benjamini–Hochberg over the heads of a block and variant.",
    ),
    Column(
        "band_low",
        "float64",
        "label",
        about="Lower band; all bands of a block and variant hold at once (max-T).",
    ),
    Column("band_high", "float64", "label", about="Upper band."),
    Column(
        "contrast",
        "float64",
        "label",
        about="The mean less what `against` says; none where heads have units of their own.",
    ),
    Column(
        "contrast_low",
        "float64",
        "label",
        about="Lower band of the contrast; those of a block and variant hold at once (max-T).",
    ),
    Column("contrast_high", "float64", "label", about="Upper band of the contrast."),
    Column(
        "shown",
        "bool",
        "label",
        about="Whether the band of the contrast, one of bands that hold for all heads at once, excludes 0.",
    ),
    Column(
        "against",
        "string",
        "label",
        about="0, or the mean head of the block for symmetric scores; empty for directional and EWC scores, where heads have "
        "units of their own.",
    ),
    Column(
        "own_a",
        "float64",
        "value",
        about="Mean score over pairs of two samples of A that were drawn apart; none for directional and EWC scores.",
    ),
    *_bounds(
        "own_a", "Jackknife over the rows of A, by group where rows have groups; none below four."
    ),
    Column("own_b", "float64", "value", about="Likewise of B."),
    *_bounds("own_b", "Jackknife over the rows of B."),
    Column(
        "cosine",
        "float64",
        "value",
        about="Mean over pairs of two tasks that were drawn apart / √(own_a · own_b): of both tasks' mean gradients (signed) or mean "
        "magnitudes (symmetric), without what single samples have of their own. 1 is two halves of one task.",
    ),
    *_bounds(
        "cosine",
        "Jackknife over the rows of A and of B, by group where rows have groups; conditional on the Fisher.",
    ),
    Column(
        "resolved",
        "bool",
        "mask",
        of="cosine",
        about="Whether own_a and own_b can both be told to lie above 0, after Benjamini–Hochberg over the heads of a block: there is a cosine.",
    ),
    Column(
        "mean_l1",
        "float64",
        "value",
        about="Mean over B of the column mean / ‖g_j‖₁, directional only: free of units; 1 for all heads says nothing of A.",
    ),
    Column(
        "reliability",
        "float64",
        "value",
        about="Share of the mean's square that is not error: (mean² − SE²) / mean², at least 0.",
    ),
    Column("reliable", "bool", "mask", of="mean", about="Whether the reliability is at least 0.2."),
    Column(
        "rank_reliability",
        "float64",
        "value",
        about="How alike two halves of the samples rank those of the other task: Spearman–Brown, the smaller over A and B.",
    ),
    *_SAMPLES,
)

SLICES_COLUMNS = (
    *_PLACE,
    _FISHER,
    Column("min", "float64", "value", about="Smallest entry of the slice."),
    Column("median", "float64", "value", about="Median entry."),
    Column("max", "float64", "value", about="Largest entry."),
    Column("below_epsilon", "float64", "value", about="Share of entries below ε."),
    Column("damping", "float64", "value", about="λ that was used."),
)

PAIRS_COLUMNS = (
    *_PLACE,
    *_FORM,
    Column("rank", "int64", "axis", about="Place in its list, from 1."),
    Column(
        "row_a",
        "string",
        "axis",
        about="Id of the sample of A; empty where a score is of B's sample alone.",
    ),
    Column("row_b", "string", "axis", about="Id of the sample of B."),
    Column("text_a", "string", "label", about="What A's sample says."),
    Column("text_b", "string", "label", about="What B's sample says."),
    Column("score", "float64", "value", about="The pair's score."),
)

CHANGES_COLUMNS = (
    *_PLACE,
    *_FORM,
    Column("first", "float64", "value", about="Mean score of the first measurement."),
    Column("second", "float64", "value", about="Mean score of the second."),
    Column(
        "change", "float64", "value", about="Second minus first, over the same pairs of samples."
    ),
    *_bounds("change", _TWO_WAY),
    Column("p", "float64", "label", about="Two-sided, of no change."),
    Column("p_adjusted", "float64", "label", about="Benjamini–Hochberg over the heads of a block."),
    *_SAMPLES,
)

ABLATION_COLUMNS = (
    _BLOCK,
    Column("form_a", "string", "axis", about="A variant under a Fisher."),
    Column("form_b", "string", "axis", about="Another."),
    Column(
        "spearman",
        "float64",
        "value",
        about="Rank correlation of all scores of the block; by magnitude where only one of the two has a sign.",
    ),
    *_bounds("spearman", "Jackknife over folds of rows of A and of B, on the scale of atanh."),
    Column(
        "overlap",
        "float64",
        "value",
        about="Share that two lists of the 100 largest scores by magnitude have in common.",
    ),
    *_bounds(
        "overlap",
        "Jackknife over folds of rows of A and of B; a guide, since a list is not smooth.",
    ),
    Column("cells", "int64", "label", about="Scores compared: pairs × layers × heads."),
    Column("n_a", "int64", "label", about="Samples of task A."),
    Column("n_b", "int64", "label", about="Samples of task B."),
)
