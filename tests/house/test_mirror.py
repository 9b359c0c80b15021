"""Every source file has its test file at the same path, or a reason that stands here."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tests.house import sources

# source file -> where it is tested instead, and why
ELSEWHERE: dict[str, str] = {}


def twin(relative: str) -> str:
    """Where the tests of a source file stand, relative to tests/."""
    path = PurePosixPath(relative)
    return str(path.with_name(f"test_{path.name}"))


def untested(files: list[str], tests: Path) -> list[str]:
    return [file for file in files if not (tests / twin(file)).is_file()]


def test_every_source_file_has_its_test_file() -> None:
    files = [
        path.relative_to(sources.PACKAGE).as_posix()
        for path in sources.modules()
        if path.name not in {"__init__.py", "__main__.py"}  # faces are tested in test_faces
    ]
    missing = set(untested(files, sources.TESTS))
    assert sorted(missing - set(ELSEWHERE)) == []
    assert sorted(set(ELSEWHERE) - missing) == [], (
        "a reason for a file that has its test, or is gone"
    )


def test_a_file_without_a_test_is_seen(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "test_page.py").touch()
    assert untested(["report/page.py", "report/figures.py"], tmp_path) == ["report/figures.py"]
