"""Models: what a layer, component, expert and LoRA factor is; reading, writing and measuring a model.

`Anatomy` names every element of a decoder by `Site`, `HeadMap` says which features of which module are which
attention head's; `load_model` and `save_model` read and write ordinary Hugging Face folders; `measuring` and `weights_at`
let a model be differentiated without leaving a trace; `Stream` reads and writes the residual stream, `read_projections` keys and values before rotation, `attention_maps` who looks where;
`capture` sees what goes into each module and what gradient comes back, and `grouped_gradients` turns that into gradients of groups of rows.
"""

from __future__ import annotations

from crosstune.foundation.models.anatomy import Anatomy, gradient_sites
from crosstune.foundation.models.contraction import Groups, grouped_gradients
from crosstune.foundation.models.geometry import HeadGeometry
from crosstune.foundation.models.heads import HeadMap, Projection
from crosstune.foundation.models.loading import (
    check_finite,
    load_model,
    load_tokenizer,
    read_config,
    save_model,
    weights_fingerprint,
)
from crosstune.foundation.models.maps import attention_maps, watchable
from crosstune.foundation.models.measuring import check_supported, measuring, weights_at
from crosstune.foundation.models.projections import KeyValues, read_projections
from crosstune.foundation.models.site import Part, Site
from crosstune.foundation.models.streams import Stream, model_inputs, positions
from crosstune.foundation.models.taps import Capture, Tap, capture

__all__ = [
    "Anatomy",
    "Capture",
    "Groups",
    "HeadGeometry",
    "HeadMap",
    "KeyValues",
    "Part",
    "Projection",
    "Site",
    "Stream",
    "Tap",
    "attention_maps",
    "capture",
    "check_finite",
    "check_supported",
    "gradient_sites",
    "grouped_gradients",
    "load_model",
    "load_tokenizer",
    "measuring",
    "model_inputs",
    "positions",
    "read_config",
    "read_projections",
    "save_model",
    "watchable",
    "weights_at",
    "weights_fingerprint",
]
