"""The growth of costs as a figure."""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert

from crosstune.report.theme import FILE_FONT, LIGHT, vega_config

SHOWN = {"plain": "plain pass", "ours": "ours", "opacus": "Opacus + scores", "loop": "loop"}


def draw(points: list[dict[str, Any]]) -> str:
    """Seconds against each size that grows, both logarithmic, as SVG."""
    rows = [
        {"grows": p["grows"], "size": p["size"], "way": said, "seconds": p["times"].median(name)}
        for p in points
        for name, said in SHOWN.items()
    ]
    way = alt.Color("way:N", sort=list(SHOWN.values()), title=None)
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("size:Q", title=None).scale(type="log", base=2, nice=False),
            y=alt.Y("seconds:Q", title="CPU seconds").scale(type="log"),
            color=way,
            strokeDash=alt.StrokeDash("way:N", sort=list(SHOWN.values()), legend=None),
        )
        .properties(width=230, height=180)
        .facet(alt.Facet("grows:N", title=None), columns=2)
        .resolve_scale(x="independent", y="independent")
    )
    config = vega_config(LIGHT, FILE_FONT) | {"background": LIGHT.background}
    text: str = vl_convert.vegalite_to_svg(chart.to_dict(), config=config)
    return text
