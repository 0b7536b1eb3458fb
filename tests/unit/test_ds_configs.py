"""The files of ds_configs/: each is accepted here and by DeepSpeed, and what the recipe owns is refused in them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe, parse_recipe
from pipeline.config.deepspeed import (
    DS_CONFIGS,
    KNOWN_KEYS,
    OWNED_BY_RECIPE,
    check_deepspeed_json,
    read_deepspeed_json,
    render_deepspeed,
)
from pipeline.config.zero import ZERO_KEYS, ZeroSettings
from pipeline.errors import ConfigError

FILES = sorted(DS_CONFIGS.glob("*.json"))
README = (DS_CONFIGS / "README.md").read_text()


def recipe_of(deepspeed: str, dtype: str = "bf16") -> Recipe:
    tree = {
        "arm": "x", "out": "o", "model": {"path": "m", "dtype": dtype}, "data": {"shards": "s"},
        "engine": {"deepspeed": deepspeed}, "train": {"max_steps": 4}, "sketch": {"enabled": False},
    }  # fmt: skip
    return parse_recipe(tree, source="test")


@pytest.fixture(scope="module")
def deepspeed_config() -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_deepspeed_understands_what_is_rendered_from_every_file(file: Path, deepspeed_config: Any) -> None:
    tree = render_deepspeed(recipe_of(file.name), 4)
    understood = deepspeed_config(tree)
    written, ours = tree["zero_optimization"], ZeroSettings.of(tree)
    assert understood.zero_config.stage == written["stage"] == ours.stage
    assert understood.zero_config.reduce_bucket_size == ours.reduce_bucket_size
    assert understood.zero_config.max_live_parameters == ours.max_live_parameters
    assert understood.gradient_accumulation_steps == 1 and understood.train_batch_size == 4
    assert understood.bfloat16_config.enabled and understood.grad_accum_dtype == "fp32"
    assert str(understood.communication_data_type) == "torch.float32"


def test_what_a_file_leaves_out_counts_as_deepspeed_counts_it(deepspeed_config: Any) -> None:
    for stage in (1, 2, 3):
        tree = {"zero_optimization": {"stage": stage}, "train_micro_batch_size_per_gpu": 1}
        theirs, ours = deepspeed_config(tree).zero_config, ZeroSettings.of(tree)
        for name in ZeroSettings.__dataclass_fields__:
            value = getattr(theirs, name)
            assert getattr(ours, name) == ("none" if value is None else value), name


def test_the_known_keys_are_deepspeeds(deepspeed_config: Any) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    names = set(fields) | {field.alias for field in fields.values() if field.alias}
    assert {key for key in names if not key.startswith("zero_hpz")} <= ZERO_KEYS | {"zero_hpz_partition_size"}
    written = {key.removeprefix("stage3_") for key in ZERO_KEYS}
    assert written <= {name.removeprefix("stage3_") for name in names}


@pytest.mark.parametrize("path", OWNED_BY_RECIPE)
def test_keys_of_the_recipe_are_refused_however_deep(path: str) -> None:
    tree: Any = 1
    for key in reversed(path.split(".")):
        tree = {key: tree}
    with pytest.raises(ConfigError, match="belongs to the recipe") as caught:
        check_deepspeed_json(tree, Path("some.json"))
    assert caught.value.where["key"] == path


def test_a_mistyped_zero_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        check_deepspeed_json({"zero_optimization": {"reduce_buket_size": 1}}, Path("some.json"))
    assert caught.value.where["key"] == "zero_optimization.reduce_buket_size"
    assert caught.value.hint == "did you mean `reduce_bucket_size`?"


def test_gradients_of_bf16_are_added_in_fp32_and_nothing_else_changes() -> None:
    for dtype in ("fp32", "fp16"):
        rendered = render_deepspeed(recipe_of("zero3.json", dtype), 1)
        assert "data_types" not in rendered and "communication_data_type" not in rendered
    rendered = render_deepspeed(recipe_of("zero3.json"), 1)
    assert rendered["data_types"] == {"grad_accum_dtype": "fp32"}


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_deepspeed_json(tmp_path / "broken.json")


def test_the_readme_lists_every_file_and_every_owned_key() -> None:
    for file in DS_CONFIGS.iterdir():
        if file.suffix not in (".py", ".md", "") and "__pycache__" not in file.name:
            assert f"`{file.name}`" in README, file.name
    named = set(re.findall(r"`([\w.]+)`", README))
    assert set(OWNED_BY_RECIPE) <= named
    assert not set(KNOWN_KEYS) & set(OWNED_BY_RECIPE)


def test_the_example_hostfile_and_environment_are_what_deepspeed_reads(deepspeed_config: Any) -> None:
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(DS_CONFIGS / "hostfile.example"))) == {"node1": 8, "node2": 8}
    for line in (DS_CONFIGS / "deepspeed_env.example").read_text().splitlines():
        assert re.fullmatch(r"\w+=\S+", line), line  # DeepSpeed takes no comments and no empty lines there


SRUN = """#!/usr/bin/env bash
shift  # --kill-on-bad-exit=1
for number in 0 1; do SLURM_PROCID=$number SLURM_LOCALID=$number SLURM_NTASKS=2 "$@"; done
"""
PYTHON = '#!/usr/bin/env bash\necho "$RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT $*"\n'


def test_the_batch_script_starts_every_rank_with_its_place(tmp_path: Path) -> None:
    programs = {"srun": SRUN, "python": PYTHON, "scontrol": "#!/bin/sh\nprintf 'node7\\nnode8\\n'\n"}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }  # fmt: skip
    script = DS_CONFIGS / "train.sbatch"
    done = subprocess.run(
        ["bash", str(script), "-c", "mine.yaml", "train.seed=1"], env=environment, capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    command = "-m pipeline.cli.train -c mine.yaml train.seed=1"
    assert done.stdout.splitlines() == [f"{n}/2 {n} node7 24567 {command}" for n in (0, 1)]
