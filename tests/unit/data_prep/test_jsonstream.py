"""The streaming reader against `json.loads`, over every position of a chunk border."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.adapters import jsonstream
from data_prep.adapters.jsonstream import ObjectIndex, stream_objects
from pipeline.errors import CorpusError

ROWS: list[dict[str, Any]] = [
    {"a": 'x ] } , { [ \\ " \u00e9 \u266b \U0001f3b5'},
    {},
    {"deep": [{"b": [1, 2.5, None, True]}], "n": -12},
]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", [None, "data"])
def test_streams_what_json_loads(
    chunk_bytes: int, ascii_only: bool, indent: int | None, key: str | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK_BYTES", chunk_bytes)
    value = ROWS if key is None else {"n": 123, "list": [1, {"data": 2}], key: ROWS, "after": 1}
    path = tmp_path / "x.json"
    path.write_text("\n " + json.dumps(value, ensure_ascii=ascii_only, indent=indent), encoding="utf-8-sig")
    items = list(stream_objects(path, key=key))
    assert [item.value for item in items] == ROWS
    index = ObjectIndex(path)
    for group, item in enumerate(items):
        index.add(group, item)
    assert list(index.groups()) == [[row] for row in ROWS]


@pytest.mark.parametrize("batch_bytes", [1, 40, 100, 1 << 20])
def test_an_index_gives_the_objects_of_each_group_in_file_order(batch_bytes: int, tmp_path: Path) -> None:
    rows = [{"group": group, "n": n, "text": "\u266b" * n} for n, group in enumerate([0, 1, 0, 2, 1, 0, 3, 2, 0, 3])]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))
    index = ObjectIndex(path)
    for item in stream_objects(path):
        index.add(item.value["group"], item)
    expected = [[row for row in rows if row["group"] == group] for group in range(4)]
    assert list(index.groups(batch_bytes)) == expected
    assert list(index.groups(batch_bytes)) == expected, "an index can be read again"


def test_an_empty_index_has_no_groups(tmp_path: Path) -> None:
    assert list(ObjectIndex(tmp_path / "none.json").groups()) == []


def test_a_file_that_changed_after_it_was_indexed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}]')
    index = ObjectIndex(path)
    for item in stream_objects(path):
        index.add(0, item)
    path.write_text("[ " + '{"a": 1}]')
    with pytest.raises(CorpusError, match="changed"):
        list(index.groups())


def test_an_empty_array_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(" [ ] ")
    assert list(stream_objects(path)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b'[{"a": 1}',
        b'[{"a": 1},',
        b'[{"a": 1} {"a": 2}]',
        b'[{"a": 1}, 3]',
        b'{"other": [{"a": 1}]}',
        b'{"data": {"a": 1}}',
        b"<html>",
        b'[{"a": "\xff"}]',
        b'[{"a": }]',
    ],
)
def test_damage_is_an_error_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as error:
        list(stream_objects(path, key="data"))
    assert error.value.where["file"] == path


def test_a_file_without_end_of_object_is_not_read_whole(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(jsonstream, "MAX_OBJECT_CHARS", 1000)
    monkeypatch.setattr(jsonstream, "CHUNK_BYTES", 100)
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a": "' + b"x" * 100_000)
    with pytest.raises(CorpusError) as error:
        list(stream_objects(path))
    assert error.value.where["byte"] == len(b'[{"a": ')


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b'[{"a": 1, % why\n"b": 2}]', "no comments"),
        (b'% why\n[{"a": 1}]', "no comments"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b'[{"a": 1}', "download it again"),
    ],
)
def test_known_causes_are_told_apart(content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as error:
        list(stream_objects(path))
    assert error.value.hint is not None and hint in error.value.hint
