"""Shards that the tests of this room read; built once, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.index import ShardIndex

from .shards import damage, write_dataset

SIZES = {"alpha": 5, "beta": 9, "gamma": 2}
"""Training clips per dataset: 7, 13 and 3 examples, none a multiple of a micro-batch."""


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for name, n in SIZES.items():
        write_dataset(folder, name, {"train": n, "val": n - 1})
    return folder


@pytest.fixture(scope="session")
def index(shards: Path) -> ShardIndex:
    return ShardIndex(shards)


@pytest.fixture(scope="session")
def damaged_index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """The same, with three unreadable clips: audio in alpha, audio and annotation in beta."""
    folder = tmp_path_factory.mktemp("damaged")
    for name, n in SIZES.items():
        write_dataset(folder, name, {"train": n, "val": n - 1})
    damage(folder, "alpha", "train", 1)
    damage(folder, "beta", "train", 3)
    damage(folder, "beta", "train", 5, member="json")
    damage(folder, "alpha", "val", 0)
    damage(folder, "gamma", "val", 0)
    return ShardIndex(folder)
