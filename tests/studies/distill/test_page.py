"""The page opens with the answer, and says what the books found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.studies.distill.conftest import small

from crosstune import report
from crosstune.foundation.records import Run
from crosstune.studies.distill import page
from crosstune.studies.distill.settings import TERMS, DistillStudySettings


def student(begin: str, arm: str, bits: float, more: tuple[float, float, float]) -> dict[str, Any]:
    low, high = bits - 0.1, bits + 0.1
    values = {"bits": bits, "bits_low": low, "bits_high": high, "seeds": 3}
    names = ("more", "more_low", "more_high")
    return {
        "student": f"{arm}, {begin}",
        "beginning": begin,
        "arm": arm,
        **values,
        **dict(zip(names, more, strict=True)),
    }


def test_the_nearest_rival_comes_first_and_each_difference_is_judged() -> None:
    rows = [
        student("piece", "kd", 1.5, (0, 0, 0)),
        student("piece", "ce", 1.9, (0.4, 0.3, 0.5)),
        student("anew", "kd", 1.2, (-0.3, -0.4, -0.2)),
        student("anew", "ce", 1.6, (0.1, -0.1, 0.3)),
    ]
    found = list(page.against({row["student"]: row for row in rows}, DistillStudySettings()))
    texts = [one.text for one in found]
    assert (
        "kd from a piece of the teacher ends 0.30 [0.20, 0.40] bits per byte above kd from random"
        in texts[0]
    )
    assert "is not shown to differ from ce from random weights (0.10" in texts[1]
    assert "ends 0.40 [0.30, 0.50] bits per byte below ce from a piece" in texts[2]
    assert found[1].detail.startswith("kd: learning the teacher's distribution; ce: learning the t")
    assert [one.tone for one in found] == ["shown", "not_shown", "shown"]


def test_the_report_is_drawn_and_names_what_failed(run: Run, folder: Path) -> None:
    made = page.page(run, small(folder))
    assert made.answer is not None and "bits per byte" in made.answer.text
    told = [one.text for one in made.statements if one.tone == "warning"]
    assert any("fails: warm-up is a tenth or less (25% of the steps)" in text for text in told)
    report.draw(run)
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    for title in (
        "What the loss was made of",
        "Do terms pull apart?",
        "Weights, expected and actual",
    ):
        assert title in text


def test_one_student_alone_has_a_sentence_too() -> None:
    settings = DistillStudySettings(arms=("kd",), beginnings=("piece",))
    (only,) = page.against({"kd, piece": student("piece", "kd", 1.5, (0, 0, 0))}, settings)
    assert "ends at 1.50 [1.40, 1.60] bits per byte" in only.text


def test_every_arm_has_words() -> None:
    assert {*page._ARMS} == {*TERMS}
