"""How a run is shown in MLflow: its name, description, parameters, tags and datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.config.urls import join, without_secrets
from pipeline.runlog.run_folder import RunFolder, grid_folder

NOTE = "mlflow.note.content"
DIGEST_LENGTH = 36  # MLflow's bound; two corpora that agree in 144 bits are the same
# What an example is, in the form that MLflow's page shows as columns.
SCHEMA = json.dumps(
    {"mlflow_colspec": [{"name": name, "type": kind} for name, kind in
                        (("audio", "binary"), ("question", "string"), ("answer", "string"))]}
)  # fmt: skip


def experiment_name(experiment: Path) -> str:
    """The folder's name, with the grid's before it where it is a study of one."""
    grid, name = grid_folder(experiment), experiment.resolve().name
    return name if grid is None else f"{grid.name}/{name}"


def arm_name(folder: RunFolder) -> str:
    return f"{folder.experiment.resolve().name}-{folder.recipe.arm}"


def seed_name(folder: RunFolder) -> str:
    return f"{arm_name(folder)}-s{folder.recipe.train.seed}"


def grid_note(grid: Path) -> str:
    return f"Grid `{grid.name}` of `gst tables`: one run a study below. Its report is among the artifacts."


def experiment_note(experiment: Path) -> str:
    return (
        f"Experiment folder `{experiment_name(experiment)}`: one run an arm below, and one a seed below each. "
        "`gst report` puts its report among the artifacts."
    )


def arm_note(folder: RunFolder) -> str:
    schedule = folder.recipe.schedule
    return (
        f"Arm `{folder.recipe.arm}`: regime {schedule.regime}, grouping {schedule.grouping}, "
        f"weights {schedule.weights.kind}; one run a seed below."
    )


def seed_note(folder: RunFolder) -> str:
    return (
        f"Arm `{folder.recipe.arm}` with seed {folder.recipe.train.seed}, from `arms/{folder.path.name}`. "
        "The step is the global optimizer step, the time that of the event in the run's log."
    )


def run_params(recipe: Recipe) -> dict[str, Any]:
    """The parameters people filter by; the whole recipe is an artifact."""
    return {
        "arm": recipe.arm,
        "model": recipe.model.path,
        "parts": str(recipe.model.parts),
        "max_steps": recipe.train.max_steps,
        "global_batch": recipe.train.global_batch,
        "micro_batch": recipe.train.micro_batch,
        "optimizer": recipe.train.optimizer.name,
        "lr": recipe.train.peak_lr,
        "seed": recipe.train.seed,
        "regime": recipe.schedule.regime,
        "grouping": recipe.schedule.grouping,
        "weights": recipe.schedule.weights.kind,
        "affinity_version": recipe.schedule.version,
    }


def run_tags(info: dict[str, Any]) -> dict[str, str]:
    """Where the run's numbers come from, by its `run.json`."""
    names = ("arm", "git_sha", "code_digest", "config_digest", "world_size")
    return {name: str(info[name]) for name in names if info.get(name) is not None}


def dataset_inputs(recipe: Recipe, info: dict[str, Any]) -> list[Any]:
    """One `DatasetInput` a corpus, with the digest of its manifest and the number of examples in each split.

    MLflow keeps one context for a dataset and run, so it names all splits that the run used.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    is_trained = info.get("stop_reason") != "not trained"
    found = []
    for name, digest in sorted(info["data_digests"].items()):
        counts = info.get("examples", {}).get(name, {})
        dataset = Dataset(
            name=name,
            digest=digest[:DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": join(without_secrets(recipe.data.shards), name)}),
            schema=SCHEMA,
            profile=json.dumps(counts),
        )
        used = [split for split, count in counts.items() if count and (is_trained or split == "test")]
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", ",".join(used))]))
    return found
