"""The streaming reader against `json.loads`, over every position of a chunk border."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.adapters import jsonstream
from data_prep.adapters.jsonstream import read_object, stream_objects
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
    with open(path, "rb") as file:
        assert [read_object(file, item.offset, item.size) for item in items] == ROWS


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
    assert error.value.where["byte"] == 1
