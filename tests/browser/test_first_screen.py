"""What a reader sees first, on a desktop and on a phone, and what opens when it is asked for."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.browser.test_report_page import CHROMIUM, browse
from tests.report.synthetic_run import make_run, page

from crosstune.report import draw

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed here")

# Once the page is drawn: where things are; then what is closed is opened as a reader would, and measured again.
PROBE = """
<script>
addEventListener("load", () => { const timer = setInterval(async () => {
  if (!document.documentElement.dataset.drawn) return;
  clearInterval(timer);
  const one = (where) => document.querySelector(where);
  const box = (where) => { const r = one(where).getBoundingClientRect(); return { top: r.top, bottom: r.bottom }; };
  const words = (name) => [...document.querySelectorAll(`figure[data-section="${name}"] svg text`)].map((x) => x.textContent);
  const drawnAside = () => Boolean(one('figure[data-section="oscillation"] svg'));
  const wide = () => document.documentElement.scrollWidth - innerWidth;
  const noted = { wide: wide(), h1: box("h1"), nav: box("nav"), answer: box(".answer"), findings: box("#findings"),
    first: box(".picture"), last: box(".picture:last-child"), changes: words("changes"), largest: words("largest"),
    chart: words("changes").length && box('figure[data-section="changes"] svg'), path: words("path"),
    selectors: document.querySelectorAll(".picture select, .picture button").length,
    hidden: one(".more-findings li").checkVisibility({ contentVisibilityAuto: true }), summary: one(".more-findings summary").textContent,
    aside: drawnAside(), links: one("nav a").checkVisibility(),
    cut: [...document.querySelectorAll("figure.table .scroll")].some((x) => x.scrollWidth > x.clientWidth) };
  one(".more-findings summary").click();
  location.hash = "s-oscillation";
  for (let i = 0; i < 400 && !drawnAside(); i += 1) await new Promise((go) => setTimeout(go, 100));
  for (const one of document.querySelectorAll("details")) one.open = true;
  noted.opened = { hidden: one(".more-findings li").checkVisibility(), aside: drawnAside(), wide: wide() };
  parent.postMessage(JSON.stringify(noted), "*");
}, 200); });
</script></body>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "run"
    make_run(folder, layers=3)
    return draw(folder)


def seen(report: Path, profile: Path, width: int, height: int) -> dict[str, Any]:
    """What the probe notes in a frame of that size: a headless window cannot be as narrow as a phone."""
    before, _, after = report.read_text("utf-8").rpartition("</body>")
    report.with_name("probed.html").write_text(before + PROBE + after, encoding="utf-8")
    frame = report.with_name("frame.html")
    frame.write_text(
        f'<iframe width={width} height={height} style="border:0" src="probed.html#appearance=light"></iframe><pre id=seen></pre>'
        '<script>onmessage = (event) => { document.getElementById("seen").textContent = event.data; }</script>',
        encoding="utf-8",
    )
    dom, console = browse(frame, profile, "--dump-dom", "--window-size=1400,1000")
    assert console == []
    match = re.search(r'<pre id="seen">(.+?)</pre>', dom, re.S)
    assert match is not None
    noted: dict[str, Any] = json.loads(html.unescape(match[1]))
    return noted


def check_at_every_width(noted: dict[str, Any]) -> None:
    assert noted["wide"] <= 0
    assert noted["opened"]["wide"] <= 0
    assert noted["selectors"] == 0
    assert noted["summary"] == "2 findings not shown or too noisy"
    assert (noted["hidden"], noted["opened"]["hidden"]) == (False, True)
    assert (noted["aside"], noted["opened"]["aside"]) == (False, True)


def test_a_desktop_opens_with_the_answer_and_its_pictures(report: Path, tmp_path: Path) -> None:
    noted = seen(report, tmp_path, 1280, 800)
    check_at_every_width(noted)
    assert noted["h1"]["bottom"] < noted["answer"]["top"] < noted["first"]["top"]
    assert noted["first"]["top"] == noted["last"]["top"]
    assert noted["last"]["bottom"] <= 800
    assert noted["links"]
    assert not noted["cut"]
    # A number without colour still says which way it goes.
    for name in ("changes", "largest"):
        numbers = [word for word in noted[name] if re.fullmatch(r"[+−][\d.,]*[1-9][\d.,]*", word)]
        plus = sum(word.startswith("+") for word in numbers)
        assert numbers
        assert noted[name].count("lost") == plus
        assert noted[name].count("gained") == len(numbers) - plus
    components = {"attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down", "norm"}
    assert components <= set(noted["path"])  # a heading for each, in place of a legend
    assert "component" not in noted["path"]


def test_a_phone_shows_title_answer_and_a_picture_before_the_links(
    report: Path, tmp_path: Path
) -> None:
    noted = seen(report, tmp_path, 390, 844)
    check_at_every_width(noted)
    assert noted["h1"]["bottom"] < noted["answer"]["top"] < noted["first"]["top"]
    assert noted["chart"]["bottom"] <= 844
    assert noted["last"]["bottom"] < noted["nav"]["top"] < noted["findings"]["top"]
    assert not noted["links"]
    assert len(page().pictures) == 2
