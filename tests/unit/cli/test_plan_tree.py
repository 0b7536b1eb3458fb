"""What `gst plan` prints of the mixture, and what its estimates are taken from."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from pipeline.cli.plan_estimates import Pace, mean_answer_tokens, pace_of, unlike
from pipeline.cli.plan_tree import mixture_tree
from pipeline.config import Recipe
from pipeline.data.index import ShardIndex
from pipeline.data.pools import Pool, dataset_pools
from pipeline.errors import ConfigError
from pipeline.models.encode import IGNORE, AnswerEncoder
from pipeline.models.load import load_processor
from pipeline.models.tiny import write_tiny_model
from pipeline.schedule import build_plan
from pipeline.schedule.expected import expected_stages
from tests.unit.data.shards import write_dataset
from tests.unit.schedule.builders import DOMAINS, SIZES, make_recipe

TASKS = {"a": {"asr": 60, "emotion": 40}, "b": {"asr": 400}, "c": {"emotion": 900}, "d": {"emotion": 1600}}
UNITS = {"a@0": 60, "a@1": 40, "b@0": 400, "c@1": 900, "d@1": 1600}


def printed(recipe: Recipe, pace: Pace | None = None) -> list[str]:
    """The lines of the tree at 100 columns, without its lines and bars."""
    plan = build_plan(recipe, SIZES, DOMAINS, TASKS if recipe.schedule.regime == "tpc" else None)
    sizes = {**SIZES, **UNITS}
    stages = expected_stages(recipe, plan, sizes, dict.fromkeys(sizes, 3.0))
    console = Console(file=io.StringIO(), width=100)
    console.print(mixture_tree(recipe, plan, stages, SIZES, pace))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 100 and not any("…" in line for line in lines)
    return [" ".join(line.replace("│", " ").split()) for line in lines]


def test_a_stage_with_its_datasets_and_the_whole_run() -> None:
    schedule = {"regime": "gst", "grouping": "explicit", "explicit": [["a", "b"], ["c", "d"]]}
    limits = {"weights": {"kind": "proportional"}, "stage": {"max_share": 0.3}}
    recipe = make_recipe(schedule | limits, global_batch=8, micro_batch=4, eval_every=10)
    lines = printed(recipe, Pace(step=2.0, evaluation=5.0, test=None))
    assert "stage 0 240 720 30 80.0 s" in lines  # 30 steps of 2 s and 4 evaluations of 5 s
    assert "├─ a 20.0% 100 48 0.48 144" in lines
    assert "└─ b 80.0% 400 192 0.48 576" in lines
    assert "whole run 800 2,400 100 4 min 15 s" in lines


def test_units_hang_below_their_dataset() -> None:
    schedule = {"regime": "tpc", "weights": {"kind": "proportional"}, "stage": {"max_share": 0.5}}
    lines = printed(make_recipe(schedule, global_batch=8, micro_batch=4))
    start = lines.index("stage 1, units 400 1,200 50")
    assert lines[start + 1 : start + 4] == [
        "├─ a 3.3% 100 13 0.13 40", "├─ a@0 2.0% 60 8 0.13 24", "└─ a@1 1.3% 40 5 0.13 16",
    ]  # fmt: skip


def test_a_step_that_was_assumed_is_marked() -> None:
    recipe = make_recipe({"regime": "gst", "grouping": "explicit", "explicit": [["a", "b"], ["c", "d"]]})
    assert any(line.startswith("stage 0") and line.endswith("50*") for line in printed(recipe))


def test_answer_tokens_are_those_that_have_labels(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shards", "x", {"train": 5})
    index = ShardIndex(tmp_path / "shards")
    write_tiny_model("qwen2_audio", ["answer 0 1", "question 2?"], tmp_path / "model", width=32)
    recipe = make_recipe({"regime": "mix_all"})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(tmp_path / "model")})})
    pools: dict[str, Pool] = dataset_pools(index, ["x"], "train")
    encode = AnswerEncoder(load_processor(str(tmp_path / "model")))
    examples = [index.read("x", "train", number) for number in range(index.n_examples("x", "train"))]
    examples = [type(each)(**{**vars(each), "sample_rate_hz": 16_000}) for each in examples]
    labels = encode(examples)["labels"]
    expected = (labels != IGNORE).sum().item() / len(examples)
    assert mean_answer_tokens(recipe, index, pools) == {"x": pytest.approx(expected)}


def test_the_pace_of_a_run_is_read_from_its_events(tmp_path: Path) -> None:
    kinds = ["stage", "eval", "decision", "step", "step", "step", "step", "eval"]
    times = [0, 3, 3, 9, 10, 12, 15, 20]
    events = [{"event": kind, "t": t} for kind, t in zip(kinds, times, strict=True)]
    log = tmp_path / "events-rank0.jsonl"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    # Steps of 1, 2 and 3 s; the first one, after an evaluation, is left out. Evaluations of 3 and 5 s.
    assert pace_of(tmp_path) == Pace(2.0, 4.0, None)
    with log.open("a") as file:
        file.write(json.dumps({"event": "test", "t": 30, "seconds": 7.0, "generate_seconds": 2.0}) + "\n")
    assert pace_of(tmp_path).test == 9.0
    log.write_text(json.dumps(events[0]) + "\n")
    with pytest.raises(ConfigError, match="no times"):
        pace_of(tmp_path)


def test_a_run_of_another_batch_is_said(tmp_path: Path) -> None:
    recipe = make_recipe({"regime": "mix_all"}, global_batch=8, micro_batch=4)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert unlike(recipe, tmp_path) == []
    other = make_recipe({"regime": "mix_all"}, global_batch=16, micro_batch=4)
    assert unlike(other, tmp_path) == ["train.global_batch is 8 there and 16 here"]
