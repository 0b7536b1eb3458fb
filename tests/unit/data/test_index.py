from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipeline.data.index import ShardIndex
from pipeline.data.manifest import MANIFEST_NAME
from pipeline.errors import AudioError, ShardError

from .conftest import SIZES
from .shards import SAMPLE_RATE_HZ, duration_s, level, n_qa, write_dataset


def test_clips_are_expanded_to_one_example_per_question(index: ShardIndex) -> None:
    for name, n in SIZES.items():
        ids = [index.example_id(name, "train", i) for i in range(index.n_examples(name, "train"))]
        assert ids == [f"clip.train.{k}#{q}" for k in range(n) for q in range(n_qa(k))]
    assert set(index.digests) == set(SIZES)
    assert len(set(index.digests.values())) == len(SIZES)


def test_read_gives_the_audio_and_the_question_of_that_example(index: ShardIndex) -> None:
    for i in range(index.n_examples("beta", "train")):
        example = index.read("beta", "train", i)
        number, question = map(int, example.id.removeprefix("clip.train.").split("#"))
        assert example.id == index.example_id("beta", "train", i)
        assert (example.dataset, example.sample_rate_hz) == ("beta", SAMPLE_RATE_HZ)
        assert (example.question, example.answer) == (f"question {question}?", f"answer {number} {question}")
        assert example.answers == (example.answer,)
        assert example.audio.dtype == np.float32
        assert example.audio.shape == (round(duration_s(number) * SAMPLE_RATE_HZ),)
        np.testing.assert_allclose(example.audio, level(number), atol=2**-15)
        assert index.duration_s("beta", "train", i) == pytest.approx(duration_s(number))


def test_reading_by_index_equals_reading_by_webdataset(index: ShardIndex, shards: Path) -> None:
    tars = [str(path) for path in sorted((shards / "beta").glob("beta-train-*.tar"))]
    samples = webdataset.WebDataset(tars, shardshuffle=False)
    pairs = [(clip["id"], qa["question"]) for s in samples for clip in [json.loads(s["json"])] for qa in clip["qa"]]
    mine = [index.read("beta", "train", i) for i in range(index.n_examples("beta", "train"))]
    assert [(example.id.split("#")[0], example.question) for example in mine] == pairs


def test_long_audio_is_cropped_and_counted(shards: Path) -> None:
    whole, cropped = ShardIndex(shards), ShardIndex(shards, max_duration_s=0.02)
    lengths = [len(cropped.read("beta", "train", i).audio) for i in range(cropped.n_examples("beta", "train"))]
    assert max(lengths) == 160 and min(lengths) == 80
    longer = sum(n_qa(k) for k in range(SIZES["beta"]) if duration_s(k) > 0.02)
    assert cropped.n_cropped("beta", "train") == longer > 0
    assert whole.n_cropped("beta", "train") == 0
    assert cropped.duration_s("beta", "train", 3) <= 0.02


def test_channels_are_averaged(tmp_path: Path) -> None:
    write_dataset(tmp_path, "stereo", {"train": 1}, channels=2)
    example = ShardIndex(tmp_path).read("stereo", "train", 0)
    assert example.audio.shape == (80,)
    assert example.audio.dtype == np.float32


def test_more_shards_than_files_kept_open(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.storage._MAX_OPEN_SHARDS", 1)
    index = ShardIndex(shards)
    examples = [index.read("beta", "train", i) for i in (12, 0, 12, 5)]
    assert [example.id for example in examples] == [index.example_id("beta", "train", i) for i in (12, 0, 12, 5)]


def test_only_the_chosen_datasets_are_read(shards: Path) -> None:
    chosen = ShardIndex(shards, ["gamma", "alpha"], ("val",))
    assert chosen.datasets == ("gamma", "alpha")
    with pytest.raises(ShardError, match="split was not indexed"):
        chosen.n_examples("gamma", "train")
    with pytest.raises(ShardError, match="unknown dataset"):
        chosen.n_examples("beta", "val")


def test_unknown_dataset_names_the_nearest(shards: Path) -> None:
    with pytest.raises(ShardError, match=r"(?s)alfa.*did you mean alpha\?"):
        ShardIndex(shards, ["alfa"])


def test_unfinished_dataset_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, "done", {"train": 1})
    write_dataset(tmp_path, "half", {"train": 1})
    (tmp_path / "half" / MANIFEST_NAME).unlink()
    assert ShardIndex(tmp_path).datasets == ("done",)
    with pytest.raises(ShardError, match=r"(?s)half.*let `gst-data prepare` finish it"):
        ShardIndex(tmp_path, ["half"])


def test_dataset_without_training_examples_is_refused_for_training_only(tmp_path: Path) -> None:
    write_dataset(tmp_path, "benchmark", {"test": 2})
    with pytest.raises(ShardError, match=r"(?s)no training examples.*benchmark.*test: 3"):
        ShardIndex(tmp_path)
    assert ShardIndex(tmp_path, splits=("test",)).n_examples("benchmark", "test") == 3


@pytest.fixture
def own(shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(shards, tmp_path / "own")
    return tmp_path / "own"


def test_missing_shard_is_refused_by_name(own: Path) -> None:
    (own / "beta" / "beta-train-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"(?s)missing.*beta-train-000001\.tar.*expected: \d+ bytes.*prepare"):
        ShardIndex(own)


def test_shard_cut_at_a_member_boundary_is_refused(own: Path) -> None:
    tar = own / "beta" / "beta-train-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:2048])
    with pytest.raises(
        ShardError, match=rf"(?s)beta-train-000000\.tar.*got: 2048 bytes.*expected: {len(content)} bytes"
    ):
        ShardIndex(own)


def test_side_file_of_another_shard_is_refused(own: Path) -> None:
    side = own / "beta" / "beta-train-000000.json"
    value = json.loads(side.read_text())
    value["samples"] = value["samples"][:-1]
    side.write_text(json.dumps(value))
    with pytest.raises(ShardError, match=r"(?s)side file contradicts.*got: 3 samples.*expected: 4 samples"):
        ShardIndex(own)


def test_edited_manifest_is_refused(own: Path) -> None:
    path = own / "beta" / MANIFEST_NAME
    value = json.loads(path.read_text())
    value["splits"]["train"]["shards"].pop()
    path.write_text(json.dumps(value))
    with pytest.raises(ShardError, match="digest"):
        ShardIndex(own)


def test_damaged_clips_say_how(damaged_index: ShardIndex) -> None:
    bad = {}
    for i in range(damaged_index.n_examples("beta", "train")):
        try:
            damaged_index.read("beta", "train", i)
        except AudioError as error:
            bad[damaged_index.example_id("beta", "train", i)] = error.state
    assert bad == {
        "clip.train.3#0": "unreadable",
        "clip.train.3#1": "unreadable",
        "clip.train.5#0": "bad_annotation",
        "clip.train.5#1": "bad_annotation",
    }


def test_shard_cut_while_in_use_stops_the_run(own: Path) -> None:
    index = ShardIndex(own)
    tar = own / "alpha" / "alpha-train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(ShardError, match="became shorter"):
        index.read("alpha", "train", 6)
    index.close()
    tar.unlink()
    with pytest.raises(ShardError, match="cannot be read any more"):
        index.read("alpha", "train", 6)
