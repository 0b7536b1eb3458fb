"""A tracking store that the tests of this folder share: making one takes MLflow seconds."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
