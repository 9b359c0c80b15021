"""The explorer in a real browser: open without a click, opened by one, by a key, re-chosen; hostile texts stay text."""

from __future__ import annotations

import html
import json
import re

import pytest
from tests.browser.test_report_page import CHROMIUM, browse
from tests.report.explored_run import EVIL, ROWS, make_run

from crosstune.report import draw

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed here")

# Notes what is there at first, then does what a reader does, noting what each deed changes. Blobs are read as they are made.
PROBE = """
<script>
const noted = {};
let saved = null;
window.Blob = class extends Blob {
  constructor(parts, options) { super(parts, options); this.whole = String(parts[0]); }
};
URL.createObjectURL = (blob) => { saved = blob; return "blob:none"; };
HTMLAnchorElement.prototype.click = function () { noted[this.download] = saved.whole; };
addEventListener("load", () => setTimeout(() => {
  const figure = document.querySelector("figure[data-view=explorer]");
  const one = (where) => figure.querySelector(where);
  const all = (where) => [...figure.querySelectorAll(where)];
  const see = (name) => { noted[name] = {
    title: one(".opened h3").textContent, cells: all(".maps .cell").length,
    entries: all(".matrix [data-place]").length, texts: all(".readout blockquote").map((x) => x.textContent),
    score: one(".readout .score")?.textContent, pairs: all(".pairs tbody tr").length,
    pressed: all('.cell[aria-pressed="true"]').map((x) => x.getAttribute("aria-label")),
    words: one(".opened").textContent, hatched: all(".cell path").length, first: one(".ranked tbody tr").textContent,
    images: document.querySelectorAll("img").length,
  }; };
  const key = (target, name) => target.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  see("begin");
  one('.cell[aria-label^="layer 3, head 5"]').dispatchEvent(new MouseEvent("click", { bubbles: true }));
  see("clicked");
  one('.cell[aria-label^="layer 0, head 1"]').dispatchEvent(new MouseEvent("click", { bubbles: true }));
  see("masked");
  one('.cell[aria-label^="layer 3, head 5"]').dispatchEvent(new MouseEvent("click", { bubbles: true }));
  key(document.activeElement, "ArrowLeft");
  key(document.activeElement, "Enter");
  see("by key");
  one('[data-sort="layer"]').click();
  see("sorted");
  one('.ranked tbody tr button').click();
  see("from the list");
  const before = one(".readout .score").textContent;
  key(one(".matrix svg"), "ArrowUp");
  key(one(".matrix svg"), "ArrowUp");
  noted.moved = one(".readout .score").textContent !== before;
  for (const kind of ["map", "matrix"]) one(`[data-save=${kind}]`).click();
  const select = one("select");
  select.value = "1";
  select.dispatchEvent(new Event("change", { bubbles: true }));
  see("chosen");
  document.body.append(Object.assign(document.createElement("pre"), { id: "noted", textContent: JSON.stringify(noted) }));
}, 3000));
</script></body>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the browser saw, with its console."""
    folder = tmp_path_factory.mktemp("explorer")
    make_run(folder / "run")
    page = draw(folder / "run")
    before, _, after = page.read_text("utf-8").rpartition("</body>")
    page.with_name("probed.html").write_text(before + PROBE + after, encoding="utf-8")
    dom, console = browse(
        page.with_name("probed.html"), folder / "profile", "--dump-dom", appearance="dark"
    )
    match = re.search(r'<pre id="noted">(.*?)</pre>', dom, re.S)
    assert match is not None, console
    return {"console": console, "dom": dom, **json.loads(html.unescape(match[1]))}


def test_it_begins_at_the_largest_cell_that_may_be_read(seen: dict) -> None:
    begin = seen["begin"]
    assert seen["console"] == []
    assert 'data-appearance="dark"' in seen["dom"]
    assert begin["title"] == "layer 2, head 3"
    assert begin["pressed"] == ["layer 2, head 3: 0.9 [0.8, 1]"]
    assert begin["cells"] == 24
    assert begin["entries"] == 64 * 64
    assert begin["pairs"] == 2
    assert begin["hatched"] == 6 - 1  # every fourth cell but the unmeasured one
    assert "64 of 80" in begin["words"]


def test_hostile_texts_are_shown_as_text(seen: dict) -> None:
    for text in seen["begin"]["texts"]:
        assert text.startswith(EVIL)
    assert EVIL[:30] in seen["begin"]["words"]
    assert seen["chosen"]["images"] == 0


def test_a_click_and_keys_open_other_cells(seen: dict) -> None:
    assert seen["clicked"]["title"] == "layer 3, head 5"
    assert seen["by key"]["title"] == "layer 3, head 4"
    assert seen["clicked"]["words"] != seen["by key"]["words"]
    assert seen["moved"]


def test_what_is_masked_or_not_in_the_page_is_said(seen: dict) -> None:
    assert "mean below noise floor" in seen["masked"]["words"]
    assert seen["by key"]["entries"] == 0  # its mean is the smallest that may be read
    assert "does not hold this cell's matrix" in seen["by key"]["words"]


def test_the_list_is_sorted_and_opens(seen: dict) -> None:
    assert seen["begin"]["first"].startswith("230.9")
    assert seen["sorted"]["first"].startswith("3")
    assert seen["from the list"]["title"].startswith("layer 3")


def test_a_choice_keeps_the_opened_cell_or_opens_the_largest(seen: dict) -> None:
    assert seen["chosen"]["cells"] == 8
    assert seen["chosen"]["title"] == seen["from the list"]["title"] == "layer 3, head 0"


def test_map_and_matrix_are_saved(seen: dict) -> None:
    assert seen["heads.svg"].startswith("<svg")
    assert "alert" not in seen["heads.svg"]
    lines = seen["heads-matrix.csv"].splitlines()
    assert len(lines) == 65
    assert lines[0].startswith(",bn-")
    assert {line.split(",")[0] for line in lines[1:]} <= {f"en-{at}" for at in range(ROWS)}
