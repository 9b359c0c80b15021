"""The page in a real browser: every figure is drawn, nothing is loaded, nothing complains."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.report.small_run import small_run
from tests.report.synthetic_run import make_run, page

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section
from crosstune.report import draw

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed here")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=60000", "--enable-logging=stderr", "--v=0",
)  # fmt: skip


def browse(
    path: Path, profile: Path, *more: str, appearance: str = "light"
) -> tuple[str, list[str]]:
    """What the browser prints (the DOM, where asked for) and its console lines."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *more]
    done = subprocess.run(
        [*command, f"{path.as_uri()}#appearance={appearance}"],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "run"
    make_run(folder, layers=3)
    return draw(folder)


@pytest.mark.parametrize("appearance", ["light", "dark"])
def test_every_figure_is_drawn_and_the_console_is_silent(
    report: Path, tmp_path: Path, appearance: str
) -> None:
    dom, console = browse(report, tmp_path, "--dump-dom", appearance=appearance)
    assert console == []
    body = re.sub(r"<script.*?</script>", "", dom, flags=re.S)
    assert "could not be drawn" not in body
    figures = re.findall(
        r'<figure (?:class="picture" )?data-section="([^"]+)" data-view="\w+">(.*?)</figure>',
        dom,
        re.S,
    )
    every = (*page().pictures, *page().sections)
    there = {s.id for s in every if s.view not in ("table", "text")} - {"movement"}
    expected = there - {
        s.id for s in every if s.aside
    }  # what stands closed is drawn when it is opened
    assert {name for name, _ in figures} == there
    for name, inside in figures:
        if name not in expected:
            continue
        assert re.search(r"<svg[^>]*>.*<(path|text)", inside, re.S), name
    assert f'data-appearance="{appearance}"' in dom
    assert f'data-drawn="{len(expected)}"' in dom
    assert "alert('task')" in body


def test_a_choice_redraws_the_figure_or_says_not_measured(report: Path, tmp_path: Path) -> None:
    # A copy of the page that, once drawn, turns two selectors as a reader would and notes what is there.
    probe = """
    <script>
    addEventListener("load", () => setTimeout(() => {
      const figure = document.querySelector('figure[data-section="ledger-map"]');
      const before = figure.querySelector(".chart").textContent;
      const select = figure.querySelectorAll("select")[1];
      select.value = "1";
      select.dispatchEvent(new Event("change", { bubbles: true }));
      setTimeout(() => {
        const changed = figure.querySelector(".chart").textContent !== before;
        const rows = [...document.querySelectorAll('figure[data-section="cost"] tbody tr')];
        document.title = `changed ${changed} rows ${rows.filter((row) => !row.hidden).length}`;
      }, 500);
    }, 20000));
    </script></body>"""
    copy = report.with_name("probed.html")
    before, _, after = report.read_text("utf-8").rpartition("</body>")
    copy.write_text(before + probe + after, encoding="utf-8")
    dom, console = browse(copy, tmp_path, "--dump-dom")
    assert console == []
    assert "<title>changed true rows 2</title>" in dom


def test_where_a_choice_has_no_rows_the_others_change_as_little_as_can_be(tmp_path: Path) -> None:
    columns = (*map(Column.axis, ("stage", "pair", "layer")), Column.value("nats"))
    places = (("1", "a", "x"), ("1", "b", "y"), ("2", "a", "x"), ("2", "b", "x"), ("2", "a", "z"))
    rows = [
        dict(zip(("stage", "pair", "layer", "nats"), (*place, 1.0), strict=True))
        for place in places
    ]
    section = Section(
        "holes", "H", "", "bars", "t", y="pair", value="nats", choose=("stage", "pair", "layer"),
        begin={"stage": "1", "pair": "b", "layer": "y"},
    )  # fmt: skip
    small_run(tmp_path / "run", (section,), Table("t", columns, rows))
    probe = """
    <script>
    addEventListener("load", () => setTimeout(() => {
      const selects = [...document.querySelectorAll("figure select")];
      const said = () => selects.map((one) => one.selectedOptions[0].textContent).join(" ");
      const before = said();
      selects[0].value = "1";
      selects[0].dispatchEvent(new Event("change", { bubbles: true }));
      document.title = `${before}, then ${said()}`;
    }, 20000));
    </script></body>"""
    path = draw(tmp_path / "run")
    before, _, after = path.read_text("utf-8").rpartition("</body>")
    path.write_text(before + probe + after, encoding="utf-8")
    dom, console = browse(path, tmp_path / "profile", "--dump-dom")
    assert console == []
    assert "<title>1 b y, then 2 b x</title>" in dom


def test_a_picture_can_be_taken(report: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browse(report, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1280,2000")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000  # an empty white page of this size is under 15 kB


def test_every_download_is_made_inside_the_page(report: Path, tmp_path: Path) -> None:
    # Each button is pressed; what would be saved is noted instead. Blobs are read as they are made, because the
    # browser's virtual time does not wait for its blob store.
    probe = """
    <script>
    const found = {};
    let last = null;
    window.Blob = class extends Blob {
      constructor(parts, options) { super(parts, options); this.head = String(parts[0]).slice(0, 60); }
    };
    HTMLCanvasElement.prototype.toBlob = function (done) { done(new Blob([atob(this.toDataURL().split(",")[1])])); };
    URL.createObjectURL = (blob) => { last = blob; return "blob:none"; };
    HTMLAnchorElement.prototype.click = function () { found[this.download] = [last.size, last.head]; };
    addEventListener("load", () => setTimeout(() => {
      const figure = document.querySelector('figure[data-section="retention"]');
      for (const button of figure.querySelectorAll("[data-save]")) {
        button.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      }
      setTimeout(() => document.body.append(Object.assign(document.createElement("pre"),
        { id: "saved", textContent: JSON.stringify(found) })), 9000);
    }, 20000));
    </script></body>"""
    copy = report.with_name("saving.html")
    before, _, after = report.read_text("utf-8").rpartition("</body>")
    copy.write_text(before + probe + after, encoding="utf-8")
    dom, console = browse(copy, tmp_path, "--dump-dom")
    assert console == []
    match = re.search(r'<pre id="saved">(.*?)</pre>', dom, re.S)
    assert match is not None
    found = json.loads(html.unescape(match[1]))
    assert set(found) == {"retention.svg", "retention.png", "retention.csv", "retention.md"}
    assert found["retention.svg"][1].startswith("<svg")
    assert "PNG" in found["retention.png"][1]
    assert found["retention.png"][0] > 10_000
    assert found["retention.csv"][1].startswith("stage,task,side,nats_per_token,low,high")
    assert found["retention.md"][1].startswith("| stage | task | side |")
