"""Lint finds what is wrong; info counts what is there."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from prep_corpora import write_corpus
from rich.console import Console

from data_prep.adapters.jsonl import JsonlCorpus
from data_prep.info import info_table
from data_prep.lint import lint
from data_prep.prepare import prepare
from pipeline.data.manifest import DatasetManifest, ShardSide, manifest_digest, read_model, write_model
from pipeline.errors import ShardError

Members = list[tuple[str, bytes]]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    corpus = write_corpus(tmp_path / "corpus")
    prepare([(JsonlCorpus("noises"), corpus)], tmp_path / "out", jobs=1)
    return tmp_path / "out"


def rewrite(shards: Path, change: Callable[[Members], Members]) -> None:
    """Change the train tar and make sizes, hashes and offsets fit again: only the content is wrong then."""
    folder = shards / "noises"
    tar_path, side_path = folder / "noises-train-000000.tar", folder / "noises-train-000000.json"
    with tarfile.open(tar_path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(tar_path, "w") as tar:
        for name, content in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(tar_path) as tar:
        places = {member.name: (member.offset_data, member.size) for member in tar}
    side = read_model(side_path, ShardSide)
    samples = []
    for sample in side.samples:
        (audio_offset, audio_size), (json_offset, json_size) = (places[f"{sample.key}.{k}"] for k in ("flac", "json"))
        fit = {"audio_offset": audio_offset, "audio_size": audio_size, "json_offset": json_offset}
        samples.append(sample.model_copy(update={**fit, "json_size": json_size}))
    content = tar_path.read_bytes()
    facts = {"n_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_model(side_path, side.model_copy(update={"samples": samples, **facts}))
    manifest = read_model(folder / "manifest.json", DatasetManifest)
    train = manifest.splits["train"]
    splits = {
        **manifest.splits,
        "train": train.model_copy(update={"shards": [train.shards[0].model_copy(update=facts)]}),
    }
    changed = manifest.model_copy(update={"splits": splits, "digest": manifest_digest(splits)})
    write_model(folder / "manifest.json", changed)


def change_json(change: Callable[[dict], None]) -> Callable[[Members], Members]:
    def apply(members: Members) -> Members:
        value = json.loads(members[1][1])
        change(value)
        return [members[0], (members[1][0], json.dumps(value).encode()), *members[2:]]

    return apply


def test_good_shards_have_no_problems_even_when_rewritten(shards: Path) -> None:
    assert lint(shards, decode=True) == []
    rewrite(shards, lambda members: members)
    assert lint(shards, decode=True) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda members: [members[1], members[0], *members[2:]], "flac, json"),
        (lambda members: [members[0], members[2], members[1], *members[3:]], "flac, json"),
        (change_json(lambda clip: clip.pop("domain")), "domain"),
        (change_json(lambda clip: clip.update(extra=1)), "json"),
        (change_json(lambda clip: clip.update(qa=[])), "0 questions"),
        (change_json(lambda clip: clip.update(dataset="other")), "dataset"),
        (change_json(lambda clip: clip.update(domain="noise")), "unknown domain"),
        (change_json(lambda clip: clip["qa"][0].update(answers=["else"])), "answer"),
        (change_json(lambda clip: clip.update(duration_s="long")), "duration_s"),
    ],
)
def test_wrong_content_is_found(shards: Path, change: Callable[[Members], Members], problem: str) -> None:
    rewrite(shards, change)
    (found,) = lint(shards)[:1]
    assert problem in found and "noises-train-000000" in found


def test_undecodable_audio_is_found_only_by_decoding(shards: Path) -> None:
    rewrite(shards, lambda members: [(members[0][0], b"fLaC" + bytes(400)), *members[1:]])
    assert lint(shards) == []
    assert any("FLAC" in problem for problem in lint(shards, decode=True))


def test_wrong_files_are_found(shards: Path) -> None:
    folder = shards / "noises"
    tar = folder / "noises-val-000000.tar"
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1
    tar.write_bytes(content)
    (folder / "noises-test-000000.tar").unlink()
    (folder / "noises-train-000001.tar").write_bytes(b"stray")
    (folder / "noises-train.wids.json").unlink()
    found = "\n".join(lint(shards))
    for expected in ("noises-val-000000.tar: the content", "noises-test-000000.tar: the tar is missing"):
        assert expected in found
    assert "noises-train-000001.tar: not in the manifest" in found and "no wids index of split train" in found
    (folder / "manifest.json").unlink()
    assert lint(shards) == ["noises: not complete: a prepared file is missing"]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such shard folder"):
        lint(tmp_path / "none")
    with pytest.raises(ShardError, match="no prepared dataset"):
        lint(tmp_path)


def test_info_counts_clips_and_kinds_of_answers(shards: Path) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(info_table(shards))
    (row,) = [text for text in console.export_text().splitlines() if " train " in text]
    for expected in ("noises", " 8 ", "short 38%", "yes/no 38%", "text 25%", "not stated"):
        assert expected in row
