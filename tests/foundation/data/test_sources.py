"""Rows are read from every kind of source, and broken sources say where they are broken."""

from __future__ import annotations

import json

import pytest

from crosstune.foundation.data import Row, TaskSettings, read_rows, read_tasks
from crosstune.foundation.errors import DataError


def read(path, content: str | bytes | None = None, **settings):
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(TaskSettings(name="t", source=str(path), **settings), str(path), "train")


def test_jsonl_with_bom_crlf_blank_lines_and_rare_separators(tmp_path):
    content = '\ufeff{"text": "a\u2028b", "id": 5}\r\n\r\n{"text": " c "}\r\n'
    assert read(tmp_path / "x.jsonl", content) == (Row("5", "a\u2028b"), Row("line 3", " c "))


def test_csv_with_quotes_commas_and_line_ends_inside(tmp_path):
    content = 'text,n\r\n"a, ""b""\r\nc",1\r\nd,2\r\n'
    assert [row.text for row in read(tmp_path / "x.csv", content)] == ['a, "b"\r\nc', "d"]


def test_text_files_have_a_row_a_line(tmp_path):
    assert [row.text for row in read(tmp_path / "x.txt", "a\r\n\n \nb")] == ["a", "b"]


def test_parquet_reads_as_it_was_written(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "n": [1, 2]}), path)
    assert read(path) == (Row("row 1", "a"), Row("row 2", "b"))
    with pytest.raises(DataError, match="whole Parquet file"):
        read(path, path.read_bytes()[:40])


def test_a_hub_id_goes_to_datasets(monkeypatch):
    import datasets

    asked = []

    def load(source, subset, *, split):
        asked.append((source, subset, split))
        return datasets.Dataset.from_list([{"text": f"{split} {i}"} for i in range(3)])

    monkeypatch.setattr(datasets, "load_dataset", load)
    settings = TaskSettings(name="t", source="who/what", test_source="who/what", subset="en")
    (task,) = read_tasks([settings], test_share=0.5, samples=None, seed=0)
    assert asked == [("who/what", "en", "train"), ("who/what", "en", "test")]
    assert [row.text for row in task.test] == ["test 0", "test 1", "test 2"]


def test_a_hub_id_that_fails_says_why(monkeypatch):
    import datasets

    def load(*args, **kwargs):
        raise FileNotFoundError("Dataset 'who/what' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="doesn't exist on the Hub"):
        read_rows(TaskSettings(name="t", source="who/what"), "who/what", "train")


def test_templates_fill_prompt_and_response(tmp_path):
    content = json.dumps({"question": "1+1?", "answer": 2, "id": "q"})
    (row,) = read(
        tmp_path / "x.jsonl", content, prompt="Q: {question} {{}}\nA: ", response="{answer}"
    )
    assert row == Row("q", "2", "Q: 1+1? {}\nA: ")


@pytest.mark.parametrize("template", ["{question.__class__}", "{question[0]}", "{}"])
def test_templates_reach_no_attributes(tmp_path, template):
    with pytest.raises(DataError, match="must have the field"):
        read(tmp_path / "x.jsonl", '{"question": "a", "text": "b"}', prompt=template)


@pytest.mark.parametrize("template", ["{question!r}", "{question:>9}", "{question"])
def test_templates_have_no_formats(tmp_path, template):
    with pytest.raises(DataError, match="`prompt`"):
        read(tmp_path / "x.jsonl", '{"question": "a", "text": "b"}', prompt=template)


@pytest.mark.parametrize(
    ("name", "content", "settings", "said"),
    [
        ("x.jsonl", '{"txt": "a"}', {}, "fields txt.*Did you mean 'txt'"),
        ("x.jsonl", '{"text": "a"}', {"group": "doc"}, "'doc', which `group` names"),
        ("x.jsonl", '{"text": "a"}\n{"text": }', {}, "line 2.*character 10"),
        ("x.jsonl", "[1]", {}, "found a list"),
        ("x.jsonl", '{"text": "a"}\n{"text": 5}', {}, "line 2` must have text in the .*the int 5"),
        ("x.jsonl", '{"text": ["a"]}', {}, "found the list"),
        ("x.jsonl", '{"a": {}}', {"response": "{a}"}, "text or a number in .*found the dict"),
        (
            "x.jsonl",
            '{"text": ""}\n{"text": "a"}\n{"text": null}',
            {},
            "2 empty texts of 3.*line 1, line 3",
        ),
        ("x.jsonl", '{"text": "\\ud83d"}', {}, r"U\+D83D"),
        ("x.jsonl", "", {}, "must have rows"),
        ("x.jsonl", b'{"text": "ok"}\n{"text": "\xff"}\n', {}, "0xFF at line 2, byte 11"),
        ("x.jsonl", b"\xef\xbb\xbfab\n\xc3", {}, "0xC3 at line 2, byte 1"),
        ("x.csv", "text,n\na,1,2\n", {}, "row 1.*found more"),
        ("x.csv", "text,n\na\n", {}, "row 1.*found fewer"),
        ("x.csv", 'text\n"a\n', {}, "closed double quotes"),
        ("x.xlsx", "a", {}, "the ending '.xlsx'"),
        ("x.jsonl", None, {}, "no such file"),
    ],
)
def test_a_broken_source_says_where(tmp_path, name, content, settings, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path / name, content, **settings)


def test_a_folder_is_no_source(tmp_path):
    with pytest.raises(DataError, match="found a folder"):
        read(tmp_path)


def test_a_row_without_the_group_field_is_known_by_its_id(tmp_path):
    content = '{"text": "a", "id": "1", "doc": "d"}\n{"text": "b", "id": "2"}\n{"text": "c"}'
    assert [row.group for row in read(tmp_path / "x.jsonl", content, group="doc")] == [
        "d",
        "2",
        None,
    ]


def test_toy_sources_are_parallel():
    tasks = read_tasks(
        [TaskSettings(name=s, source=f"toy:{s}", rows=50) for s in ("latin-svo", "arabic-vso")],
        test_share=0.2,
        samples=None,
        seed=0,
    )
    latin, arabic = ([row.group for row in task.test] for task in tasks)
    assert latin == arabic
    assert 1 <= len(latin) < 25


def test_real_parallel_files_split_by_document(shared):
    tasks = read_tasks(
        [
            TaskSettings(name=n, source=str(shared / f"data/languages/{n}.jsonl"), group="doc")
            for n in ("en", "bn", "ar")
        ],
        test_share=0.2,
        samples=None,
        seed=0,
    )
    sides = [{row.id for row in task.test} for task in tasks]
    assert sides[0] == sides[1] == sides[2]
    assert all(len(task.train) + len(task.test) == 3001 for task in tasks)
    assert all({r.group for r in t.train}.isdisjoint(r.group for r in t.test) for t in tasks)
