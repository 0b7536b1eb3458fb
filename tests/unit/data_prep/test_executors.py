"""Local processes, array tasks and a Ray cluster of two nodes: the same bytes, whoever writes them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prep_corpora import tree, write_corpus
from test_cli import ENVIRONMENT, command, gst_data, prepare_arguments

from data_prep.adapters.jsonl import JsonlCorpus
from data_prep.planning.plan import PlanOptions, load_plans, make_plan, make_plans
from data_prep.planning.task import ShardDone, ShardTask
from data_prep.shards.executors import make_executor
from data_prep.shards.executors.array import ArrayExecutor
from data_prep.shards.prepare import prepare
from pipeline.errors import ConfigError, ShardError

SMALL = PlanOptions(max_clips_per_shard=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=20, val=4, test=4)


@pytest.fixture(scope="module")
def clean(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("clean")
    prepare(make_plans([(JsonlCorpus("noises"), corpus)], out, SMALL), make_executor("local", 1))
    return tree(out)


def test_array_tasks_share_the_shards_and_the_last_one_finishes(
    corpus: Path, clean: dict[str, bytes], tmp_path: Path
) -> None:
    plans = make_plans([(JsonlCorpus("noises"), corpus)], tmp_path, SMALL)
    ended = []
    for index in (2, 0, 1):
        executor = make_executor("array", 1, task_index=index, num_tasks=3)
        mine: list[str] = []

        def note(task: ShardTask, done: ShardDone, kept: bool, mine: list[str] = mine) -> None:
            mine += [] if kept else [task.name]

        outcomes = prepare(plans, executor, on_shard=note)
        ended.append((len(mine), len(outcomes), (tmp_path / "noises/manifest.json").exists()))
    assert sum(count for count, _, _ in ended) == len(plans[0].shards) == 11
    assert {count for count, _, _ in ended} <= {3, 4}
    assert [state[1:] for state in ended] == [(0, False), (0, False), (1, True)]
    assert tree(tmp_path) == clean


def test_array_tasks_at_the_same_time_as_slurm_starts_them(corpus: Path, tmp_path: Path) -> None:
    one = gst_data(*prepare_arguments(corpus, tmp_path / "one", jobs=1))
    assert one.returncode == 0, one.stderr
    arguments = [*prepare_arguments(corpus, tmp_path / "out", jobs=1), "--executor", "array"]
    slurm = {**ENVIRONMENT, "SLURM_ARRAY_TASK_MIN": "7", "SLURM_ARRAY_TASK_COUNT": "2"}
    tasks = [
        subprocess.Popen(
            command(*arguments),
            env={**slurm, "SLURM_ARRAY_TASK_ID": number},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in ("7", "8")
    ]
    ends = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], ends
    assert tree(tmp_path / "out") == tree(tmp_path / "one")


def test_an_array_needs_to_know_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="needs its share"):
        make_executor("array", 1)
    with pytest.raises(ConfigError, match="out of range"):
        make_executor("array", 1, task_index=3, num_tasks=3)
    with pytest.raises(ConfigError, match="belong to --executor array"):
        make_executor("local", 1, task_index=0, num_tasks=3)
    with pytest.raises(ConfigError, match="no such executor"):
        make_executor("loca", 1)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "4")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    executor = make_executor("array", 1)
    assert isinstance(executor, ArrayExecutor) and (executor.index, executor.count) == (1, 2)


def test_a_plan_on_disk_can_be_taken_up_by_others(corpus: Path, clean: dict[str, bytes], tmp_path: Path) -> None:
    corpora = [(JsonlCorpus("noises"), corpus)]
    with pytest.raises(ShardError, match="missing"):
        load_plans(corpora, tmp_path, SMALL)
    make_plans(corpora, tmp_path, SMALL)
    prepare(load_plans(corpora, tmp_path, SMALL), make_executor("local", 1))
    assert tree(tmp_path) == clean
    with pytest.raises(ConfigError, match="other options"):
        load_plans(corpora, tmp_path, PlanOptions())


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """A real cluster of two nodes on this machine, one CPU each."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def test_a_ray_cluster_of_two_nodes_writes_the_same_bytes(
    corpus: Path, clean: dict[str, bytes], tmp_path: Path, ray_cluster: str
) -> None:
    result = gst_data(*prepare_arguments(corpus, tmp_path), "--executor", "ray", "--ray-address", ray_cluster)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path) == clean


def test_an_error_on_a_ray_node_is_the_error_of_the_run(corpus: Path, tmp_path: Path, ray_cluster: str) -> None:
    plan = make_plan(JsonlCorpus("noises"), corpus, tmp_path, SMALL)
    (tmp_path / "noises/noises-val-000000.tar").mkdir()
    with pytest.raises(ShardError, match="noises-val-000000"):
        prepare([plan], make_executor("ray", 1, ray_address=ray_cluster))
