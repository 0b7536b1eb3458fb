"""A grid's tasks: what the tables need, each after what it needs, with the right overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.grid import GridSpec, Tuned, dump_grid, load_grid, load_scale
from pipeline.errors import ConfigError
from pipeline.grid.tasks import Task, build_tasks, recipe_arguments, resolve

ONE = "seeds: [0]\nstudies: {a: {}}\narms: {mix_all: {recipe: mix-all}}"
PAPERS_T1 = ["original", "individual", "sequential", "mix_all", "gst-t2", "gst-g2", "gst-g3", "gst-adaptive"]


@pytest.fixture(scope="module")
def quick() -> GridSpec:
    return load_scale("quick", family="mini", overrides=["model.path=m", "data.shards=s"])


def by_name(grid: GridSpec, *only: str) -> dict[str, Task]:
    return {task.name: task for task in build_tasks(grid, only)}


@pytest.mark.parametrize("scale", ["quick", "standard"])
def test_every_table_has_a_run_of_each_arm_and_seed(scale: str) -> None:
    grid = load_scale(scale, family="mini")
    tasks = by_name(grid)
    assert list(grid.tables) == ["T1", "T2", "T3", "T4", "T5", "T6", "T7"]
    for key, table in grid.tables.items():
        for arm in grid.arms_of(key):
            names = [f"{table.study}/{arm}-s{seed}" for seed in grid.seeds]
            assert set(names if arm != "original" else [f"{table.study}/original"]) <= tasks.keys(), (key, arm)
    assert grid.arms_of("T1") == grid.arms_of("T2") == PAPERS_T1
    assert len(grid.seeds) >= {"quick": 2, "standard": 5}[scale]
    assert sum(arm.startswith("gst-random-3-p") for arm in grid.arms_of("T4")) >= 5


def test_a_task_comes_after_all_that_it_needs(quick: GridSpec) -> None:
    seen: set[str] = set()
    for task in build_tasks(quick):
        assert set(task.needs) <= seen, task.name
        assert task.name not in seen
        seen.add(task.name)


def test_every_task_of_ranks_has_a_valid_recipe(quick: GridSpec) -> None:
    for task in build_tasks(quick):
        if task.recipe:
            recipe = resolve(quick, task, Path("grid"))
            assert recipe.out == f"grid/{task.study}"
            assert recipe.train.seed == task.seed
            if task.kind == "train":
                assert recipe.arm == task.arm


def test_arms_with_measured_groups_wait_for_them_and_others_do_not(quick: GridSpec) -> None:
    tasks = by_name(quick)
    assert tasks["full/gst-g3-s0"].needs == ("full/group-gst-g3",)
    assert tasks["full/gst-t2-s0"].needs == ("full/group-gst-t2",)
    assert tasks["full/group-gst-t2"].needs == ("full/transfer",)
    assert tasks["full/group-gst-g3"].needs == ("full/probe",)
    # A random partition has the sizes of the measured groups.
    assert tasks["full/gst-random-3-p4-s1"].needs == ("full/group-gst-random-3",)
    for arm in ("mix_all", "gst-domain", "progression", "saturation", "tpc-ads"):
        assert tasks[f"full/{arm}-s0"].needs == ("tune/choose",)


def test_the_low_resource_study_measures_its_own_affinity(quick: GridSpec) -> None:
    tasks = by_name(quick)
    assert tasks["low/group-gst-g3"].needs == ("low/probe",)
    assert resolve(quick, tasks["low/probe"], Path("g")).data.train_per_dataset == 250
    assert resolve(quick, tasks["full/probe"], Path("g")).data.train_per_dataset is None


def test_partitions_differ_by_their_seed_and_stay_over_training_seeds(quick: GridSpec) -> None:
    tasks = by_name(quick)
    drawn = {
        name: resolve(quick, task, Path("g")).schedule.seed for name, task in tasks.items() if "random-3-p" in name
    }
    assert drawn == {f"full/gst-random-3-p{p}-s{seed}": p for p in range(5) for seed in (0, 1)}


def test_what_the_search_finds_reaches_every_run_but_weights_not_those_that_define_theirs(quick: GridSpec) -> None:
    tuned = Tuned(overrides=("train.optimizer.lr=0.5",), weights=("schedule.weights.kind=proportional",))
    grid = quick.model_copy(update={"tuned": tuned})
    tasks = by_name(grid)
    for name in ("full/mix_all-s0", "full/gst-g3-s1", "low/gst-t2-s0"):
        recipe = resolve(grid, tasks[name], Path("g"))
        assert (recipe.train.optimizer.lr, recipe.schedule.weights.kind) == (0.5, "proportional")
    stochastic = resolve(grid, tasks["full/sm-s0"], Path("g"))
    assert (stochastic.train.optimizer.lr, stochastic.schedule.weights.kind) == (0.5, "uniform")


def test_a_later_axis_is_asked_with_the_answers_before_and_skips_what_was_run(quick: GridSpec) -> None:
    tasks = by_name(quick)
    asked = [name for name, task in tasks.items() if task.kind == "search"]
    assert asked == [
        f"tune/{n}" for n in ("weights-t2", "weights-proportional", "weights-uniform", "lr-half", "lr-double")
    ]
    assert tasks["tune/lr-half"].needs == tuple(asked[:3])
    assert tasks["tune/choose"].needs == tuple(asked)
    grid = quick.model_copy(update={"tuned": Tuned(weights=("schedule.weights.kind=uniform",))})
    recipe = resolve(grid, tasks["tune/lr-half"], Path("g"))
    assert (recipe.arm, recipe.train.seed, recipe.train.optimizer.lr) == ("lr-half", 1000, 3e-3)
    assert recipe.schedule.weights.kind == "uniform"


def test_some_tables_alone_need_less_and_always_the_baseline(quick: GridSpec) -> None:
    tasks = by_name(quick, "T3")
    assert {task.study for task in tasks.values()} == {"tune", "full"}
    arms = {task.arm for task in tasks.values() if task.kind == "train"}
    assert arms == {"mix_all", "gst-g3", "gst-reverse", "gst-strict-cycle", "gst-random-order"}
    assert not any(task.kind in ("transfer", "agreement") for task in tasks.values())


def test_a_version_is_pinned_on_the_command_line(quick: GridSpec) -> None:
    task = by_name(quick)["full/gst-g3-s1"]
    name, overrides = recipe_arguments(quick, task, Path("g"), "v-0123456789ab")
    assert name == "mini:gst-g3"
    assert overrides[-4:] == ["out=g/full", "train.seed=1", "arm=gst-g3", "schedule.version=v-0123456789ab"]


def test_a_grid_is_read_back_as_it_was_written(quick: GridSpec, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(dump_grid(quick))
    assert load_grid(tmp_path) == quick


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{ONE}\ntables: {{T1: {{study: b, arms: []}}}}", "no such study"),
        (f"{ONE}\ntables: {{T1: {{study: a, arms: [mixall]}}}}", "mix_all"),
        ("seeds: [0]\nstudies: {a: {}}\narms: {b: {recipe: mix-all}}\ntables: {}", "baseline"),
        ("seeds: [0]\nstudies: {}\narms: {mix_all: {recip: x}}\ntables: {}", "unknown"),
        ("seeds: []\nstudies: {}\narms: {mix_all: {recipe: x}}\ntables: {}", "at least 1"),
        ("seeds: [1000]\nstudies: {}\narms: {mix_all: {recipe: mix-all}}\ntables: {}", "search.seed"),
    ],
)  # fmt: skip
def test_mistakes_in_a_scale_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_scale(str(file), family="mini")
    assert words in str(caught.value)


def test_an_unknown_scale_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="scale") as caught:
        load_scale("quik", family="mini")
    assert caught.value.hint == "did you mean 'quick'?" and "standard" in str(caught.value.expected)
