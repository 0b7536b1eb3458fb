"""From shards and a model to clusters: real tones, a real tiny model, ranks as threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cli import clustering
from pipeline.cli.clustering import Parts, ensure_clusters
from pipeline.config import Recipe, parse_recipe
from pipeline.config.schema import ModelConfig
from pipeline.data.clusters import Clusters
from pipeline.data.index import ShardIndex
from pipeline.dist import SingleProcess
from pipeline.errors import ShardError
from pipeline.models.embed import ClipEmbedder
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_base_model, load_processor
from pipeline.types import Example


class Ranks:
    """Collectives between threads of one process."""

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier, box: dict[str, Any]) -> None:
        self.rank, self.world_size, self._barrier, self._box = rank, world_size, barrier, box

    def barrier(self) -> None:
        self._barrier.wait(timeout=60)

    def broadcast_object(self, value: Any) -> Any:
        if self.rank == 0:
            self._box["value"] = value
        self.barrier()
        value = self._box["value"]
        self.barrier()
        return value


def make_recipe(shards: Path, model: Path, out: Path, **schedule: Any) -> Recipe:
    tree = {
        "arm": "x", "out": str(out), "model": {"path": str(model)}, "data": {"shards": str(shards)},
        "train": {"max_steps": 1}, "schedule": schedule,
    }  # fmt: skip
    return parse_recipe(tree, source="test")


def fake_embed(examples: list[Example]) -> np.ndarray:
    return np.stack([np.array([len(each.audio), each.audio[0], each.audio[-1]], dtype=np.float32) for each in examples])


def parts_on(world_size: int, parts: Parts) -> list[int]:
    """Embed what lacks on so many ranks; returns how many embedders were made on each."""
    made = [0] * world_size
    barrier, box = threading.Barrier(world_size), {}

    def run(rank: int) -> None:
        def make() -> Any:
            made[rank] += 1
            return fake_embed

        parts.embed_missing(make, Ranks(rank, world_size, barrier, box), workers=1)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "PART_CLIPS", 3)
    monkeypatch.setattr(clustering, "BATCH_CLIPS", 2)


@pytest.mark.usefixtures("small_parts")
def test_parts_are_the_same_on_any_number_of_ranks_and_after_a_stop(index: ShardIndex, tmp_path: Path) -> None:
    whole = Parts(index, tmp_path / "1")
    assert parts_on(1, whole) == [1] and len(whole) == 6
    for world_size in (2, 3, 7):
        other = Parts(index, tmp_path / str(world_size))
        made = parts_on(world_size, other)
        assert sum(made) == min(world_size, 6)
        for one, same in zip(whole.read()[:2], other.read()[:2], strict=True):
            assert np.array_equal(one, same)
    kept = {number: whole.path(number).stat().st_mtime_ns for number in (0, 2, 5)}
    before = whole.read()
    for number in (1, 3, 4):
        whole.path(number).unlink()
    assert parts_on(2, whole) == [1, 1]
    assert {number: whole.path(number).stat().st_mtime_ns for number in kept} == kept
    assert all(np.array_equal(one, same) for one, same in zip(before[:2], whole.read()[:2], strict=True))
    assert parts_on(2, whole) == [0, 0]


@pytest.mark.usefixtures("small_parts")
def test_rows_belong_to_the_clips_and_bad_clips_have_none(damaged_index: ShardIndex, tmp_path: Path) -> None:
    parts, bad = Parts(damaged_index, tmp_path / "p"), []
    parts.embed_missing(lambda: fake_embed, SingleProcess(), on_bad=lambda *each: bad.append(each))
    readable, rows, seconds = parts.read()
    clips = [(name, k) for name in sorted(damaged_index.datasets) for k in range(damaged_index.n_clips(name, "train"))]
    unreadable = [clip for clip, fine in zip(clips, readable, strict=True) if not fine]
    assert unreadable == [("alpha", 1), ("beta", 3), ("beta", 5)]
    assert [(name, i) for name, i, _ in bad] == [
        ("alpha", "clip.train.1#0"),
        *(("beta", f"clip.train.{k}#0") for k in (3, 5)),
    ]
    first = [int(np.flatnonzero(damaged_index.clip_numbers(name, "train") == clip)[0]) for name, clip in clips]
    fine = [(name, i) for (name, _), i, ok in zip(clips, first, readable, strict=True) if ok]
    assert np.array_equal(rows, fake_embed([damaged_index.read(name, "train", i) for name, i in fine]))
    assert seconds > 0
    made = clustering.cluster(parts, 500, 0, {})
    assert made.n_left_out == 3 and [k for k, label in enumerate(made.labels["beta"]) if label < 0] == [3, 5]
    parts.path(0).write_bytes(b"x")
    with pytest.raises(ShardError, match="delete this file"):
        parts.read()


def test_an_embedding_is_the_mean_of_the_aligners_output(tiny_model: Path) -> None:
    config = ModelConfig(path=str(tiny_model))
    rng = np.random.default_rng(0)
    clips = [
        Example(str(n), "d", rng.normal(size=int(16_000 * s)).astype(np.float32), 16_000, "What?", "a" * n)
        for n, s in enumerate((0.5, 2.0, 1.1))
    ]
    embed = ClipEmbedder(config, torch.device("cpu"))
    got = embed(clips)
    model = load_base_model(config).eval()
    encode = AnswerEncoder(load_processor(config.path))
    outputs: list[torch.Tensor] = []
    model.model.multi_modal_projector.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    for clip, row in zip(clips, got, strict=True):
        inputs = encode([clip])
        with torch.no_grad():
            model(**{name: tensor for name, tensor in inputs.items() if name != "labels"})
        frames = int((inputs["feature_attention_mask"].sum() - 1) // 2 + 1 - 2) // 2 + 1
        assert np.allclose(row, outputs.pop()[0, :frames].mean(0).numpy(), atol=1e-5)
    asked_otherwise = [Example(c.id, c.dataset, c.audio, 16_000, "Something quite else?", "b") for c in clips]
    assert np.allclose(embed(asked_otherwise), got, atol=1e-6)


def test_clusters_are_made_once_and_hold_clips_that_sound_alike(
    tone_shards: Path, tiny_model: Path, tmp_path: Path
) -> None:
    index = ShardIndex(tone_shards)
    recipe = make_recipe(tone_shards, tiny_model, tmp_path / "a", ads={"clusters": 3})
    made = ensure_clusters(recipe, index, SingleProcess())
    again = ensure_clusters(recipe, index, SingleProcess())
    assert again.digest == made.digest and again.cost == made.cost and made.k == 3
    elsewhere = make_recipe(tone_shards, tiny_model, tmp_path / "b", ads={"clusters": 3})
    assert ensure_clusters(elsewhere, index, SingleProcess()).digest == made.digest
    embed = ClipEmbedder(recipe.model, torch.device("cpu"))
    names = sorted(made.labels)
    rows = np.concatenate([embed([index.read(n, "train", i)]) for n in names for i in range(index.n_clips(n, "train"))])
    found = np.concatenate([made.labels[name] for name in names])
    centres = np.stack([rows[found == cluster].mean(0) for cluster in range(3)])
    nearest = np.linalg.norm(rows[:, None] - centres, axis=2).argmin(1)
    assert (nearest == found).mean() > 0.95
    many = ensure_clusters(make_recipe(tone_shards, tiny_model, tmp_path / "a"), index, SingleProcess())
    assert many.k == len(found) < 500
    assert isinstance(many, Clusters) and len(list((tmp_path / "a/clusters").glob("clusters-*"))) == 2
    assert len(list((tmp_path / "a/clusters").glob("embeddings-*"))) == 1
