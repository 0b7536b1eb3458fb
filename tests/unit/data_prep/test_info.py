"""`info` counts what prepared shards hold, as a table and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import soundfile
from prep_corpora import line, noise, write_corpus, write_lines
from prepared_shards import prepare_clips, prepare_folder, rewrite
from rich.console import Console

from data_prep.look.info import answer_kind, info_json, info_table
from pipeline.errors import ShardError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """`noises`: 8 + 2 + 2 clips of 0.3 s, one unreadable; `beeps`: training clips of 1, 2, ... 10 s."""
    corpus = write_corpus(tmp_path / "noises")
    (corpus / "audio/003.wav").write_bytes(b"")
    prepare_folder(corpus, tmp_path / "out")
    beeps = tmp_path / "beeps"
    tasks = ["[count]", "name"]
    asked = [(number, task) for number in range(10) for task in tasks[: 1 + number % 2]]
    write_lines(
        beeps,
        [
            line(n, "train", dataset="beeps", task=task, answer=str(n), clip_id=f"{n}", id=f"{n}{task}")
            for n, task in asked
        ],
    )
    (beeps / "audio").mkdir()
    for number in range(10):
        soundfile.write(beeps / f"audio/{number:03d}.wav", noise(number + 1, seed=number), 16_000)
    return prepare_folder(beeps, tmp_path / "out", "beeps", val_fraction=0, test_fraction=0)


def shown(shards: Path, width: int = 160) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(info_table(shards))
    return console.export_text().splitlines()


def test_table_has_a_row_a_split_and_totals(shards: Path) -> None:
    lines = shown(shards)
    (beeps,) = [text for text in lines if "beeps" in text and "train" in text]
    for expected in (" 10 ", "0.015", " 15 ", "5.00", "10.00", "number 100%", "[count] 67%, name 33%"):
        assert expected in beeps
    (train,) = [text for text in lines if "noises" in text and " train " in text]
    for expected in (" 7 ", "0.30", "yes/no 43%", "sentence 29%", "label 29%"):
        assert expected in train
    (total,) = [text for text in lines if " total " in text]
    assert " 21 " in total and " 26 " in total
    (origin,) = [text for text in lines if "not stated" in text and "noises" in text]
    assert "sound" in origin and "ok 11 unreadable 1" in origin


def test_json_has_the_same_and_more(shards: Path) -> None:
    found = info_json(shards)
    assert json.loads(json.dumps(found)) == found
    beeps, noises = found["datasets"]
    assert beeps["splits"]["train"] == {
        "clips": 10,
        "hours": pytest.approx(55 / 3600, abs=1e-6),
        "questions": 15,
        "median_duration_s": 5.0,
        "p95_duration_s": 10.0,
        "answers": {"number": 15},
        "tasks": {"[count]": 10, "name": 5},
    }
    assert list(noises["splits"]) == ["train", "val", "test"]
    assert noises["states"] == {"ok": 11, "unreadable": 1} and len(noises["digest"]) == 64
    assert found["total"]["clips"] == 21 and found["total"]["answers"]["number"] == 15
    assert [value["dataset"] for value in info_json(shards, ["noises"])["datasets"]] == ["noises"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Yes.", "yes/no"),
        ("no", "yes/no"),
        ("3", "number"),
        ("-1,250.5 %", "number"),
        ("Twelve", "number"),
        ("3 dogs", "label"),
        ("(b) a dog", "label"),
        ("yes it is", "label"),
        ("a dog barks loudly", "sentence"),
        ("word " * 41, "long text"),
        ("狗" * 41, "sentence"),
        ("狗" * 251, "long text"),
    ],
)
def test_kinds_of_answers(answer: str, kind: str) -> None:
    assert answer_kind(answer) == kind


def test_what_cannot_be_read_is_an_error(shards: Path) -> None:
    with pytest.raises(ShardError, match="did you mean noises"):
        info_json(shards, ["noise"])
    rewrite(shards / "noises", lambda members: [members[0], (members[1][0], b"{"), *members[2:]])
    with pytest.raises(ShardError, match="not where its side file says"):
        info_table(shards)


def test_a_tar_that_is_gone_is_an_error(tmp_path: Path) -> None:
    out = prepare_clips(tmp_path / "c", tmp_path / "out", "few", [{}, {}, {}])
    (out / "few/few-train-000000.tar").unlink()
    with pytest.raises(ShardError, match="cannot be read"):
        info_json(out)
