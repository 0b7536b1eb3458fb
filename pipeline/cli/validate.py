"""`gst validate`: whether a recipe would run on so many ranks; needs neither GPUs nor weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.cli.checks.fit import Cluster, Estimate, estimate, fit_rows, terms_table, to_json
from pipeline.cli.checks.row import Row, State, table_of, worst
from pipeline.cli.options import Overrides, RecipeOption
from pipeline.cli.session import Data
from pipeline.config import Recipe, load_stages
from pipeline.config.batches import plan_batches
from pipeline.config.deepspeed import render_deepspeed
from pipeline.config.gpus import GPU_GIB, gpu_gib
from pipeline.errors import GstError, ModelError

WOULD_NOT_RUN = 2


def validate(
    recipe: RecipeOption,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option(help="Number of ranks it shall run on.")] = 1,
    gpu: Annotated[str | None, typer.Option(help=f"GPUs it shall run on: {', '.join(GPU_GIB)}.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="Memory of each GPU in GiB.")] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Ranks on one machine.")] = 8,
    host_memory: Annotated[float | None, typer.Option(help="Memory of each machine in GiB.")] = None,
    model_config: Annotated[
        str | None, typer.Option(help="A config.json, or the name of a shipped shape, for a model that is not here.")
    ] = None,
    elsewhere: Annotated[
        bool,
        typer.Option("--elsewhere", help="It shall run on another machine: what is not here is not held against it."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check batches, DeepSpeed JSON, data, groups, model, memory and disk; exits with 2 when it would not run."""
    gib = gpu_memory if gpu_memory is not None else gpu_gib(gpu) if gpu else None
    cluster = Cluster(world_size, gpus_per_node, gib, host_memory)
    findings: list[Finding] = []
    for stage in load_stages(recipe, overrides or ()):
        # A later stage starts from what the one before it saves, a model of the same shape.
        base = findings[0].recipe.model.path if findings else stage.model.path
        findings.append(examine(stage, cluster, model_config or base, elsewhere=elsewhere or bool(findings)))
    if as_json:
        print(json.dumps({"state": worst(row for each in findings for row in each.rows),
                          "runs": [each.to_json() for each in findings]}, indent=1))  # fmt: skip
    else:
        for each in findings:
            each.show(world_size)
    if worst(row for each in findings for row in each.rows) == "bad":
        raise typer.Exit(WOULD_NOT_RUN)


@dataclass
class Finding:
    """What was found of one run."""

    recipe: Recipe
    rows: list[Row] = field(default_factory=list)
    estimate: Estimate | None = None

    def refuse(self, check: str, error: GstError, state: State = "bad") -> None:
        """A typed error as a row."""
        where = "; ".join(f"{name}: {value}" for name, value in error.where.items())
        found = ": ".join(str(part) for part in (error.what, error.got) if part is not None)
        advice = error.hint or (f"expected {error.expected}" if error.expected is not None else "")
        self.rows.append(Row(check, state, f"{found} ({where})" if where else found, advice))

    def to_json(self) -> dict[str, Any]:
        return {
            "arm": self.recipe.arm,
            "state": worst(self.rows),
            "rows": [asdict(row) for row in self.rows],
            "memory": to_json(self.estimate) if self.estimate else None,
        }

    def show(self, world_size: int) -> None:
        console = Console()
        if self.estimate:
            console.print(terms_table(self.estimate, world_size))
        console.print(table_of(self.rows, f"{self.recipe.arm} on {world_size} ranks"))
        verdict = {"ok": "ok", "warn": "ok, with warnings", "bad": "it would not run"}[worst(self.rows)]
        console.print(verdict)


def examine(recipe: Recipe, cluster: Cluster, model_shape: str, *, elsewhere: bool) -> Finding:
    """Every check of one run; nothing is raised for what a recipe can get wrong.

    Args:
        model_shape: where the model's config is looked for.
        elsewhere: missing data and weights are warnings.
    """
    found = Finding(recipe)
    missing: State = "warn" if elsewhere else "bad"
    tree = _check_batches(found, cluster.world_size)
    data = _check_data(found, missing)
    _check_weights(found, missing)
    if tree is not None:
        _check_memory(found, tree, cluster, model_shape, data)
    return found


def _check_batches(found: Finding, world_size: int) -> dict[str, Any] | None:
    """The rendered DeepSpeed configuration, if there can be one."""
    try:
        found.rows.append(Row("batch", "ok", str(plan_batches(found.recipe.train, world_size))))
    except GstError as error:
        found.refuse("batch", error)
        world_size = 1  # the rest can be looked at as if it were one rank
    try:
        tree = render_deepspeed(found.recipe, world_size)
    except GstError as error:
        found.refuse("deepspeed", error)
        return None
    found.rows.append(Row("deepspeed", "ok", f"{found.recipe.engine.deepspeed}, stage {_stage(tree)}"))
    return tree


def _stage(tree: dict[str, Any]) -> int:
    return int(tree.get("zero_optimization", {}).get("stage", 0))


def _check_data(found: Finding, missing: State) -> Data | None:
    recipe = found.recipe
    try:
        data = Data(recipe)
    except GstError as error:
        found.refuse("data", error, missing)
        return None
    found.rows += _epoch_rows(recipe, data)
    try:
        stages = data.plan()
    except GstError as error:
        found.refuse("schedule", error)
    else:
        found.rows.append(Row("schedule", "ok", f"{stages.regime}, {len(stages.stages)} stage(s)"))
    return data


def _epoch_rows(recipe: Recipe, data: Data) -> Iterator[Row]:
    """How often the budget goes through the data."""
    examples, samples = sum(data.sizes.values()), recipe.train.max_steps * recipe.train.global_batch
    steps = -(-examples // recipe.train.global_batch)
    yield Row("data", "ok", f"{len(data.datasets)} datasets, {examples:,} training examples")
    epochs = f"{samples / max(examples, 1):.2f} epochs of {steps:,} steps"
    yield Row("budget", "ok", f"{recipe.train.max_steps:,} steps, {samples:,} samples: {epochs}")


def _check_weights(found: Finding, missing: State) -> None:
    """Weights are not read; a hub name is not asked for, which would need the network."""
    path = found.recipe.model.path
    folder = Path(path)
    if folder.is_dir():
        has_weights = any(folder.glob("*.safetensors"))
        state: State = "ok" if has_weights else missing
        text = "weights are there" if has_weights else "no *.safetensors in it"
        found.rows.append(Row("weights", state, f"{path}: {text}", "" if has_weights else "set model.path"))
    elif path.count("/") == 1 and not path.startswith((".", "/", "~")) and not folder.parent.is_dir():
        note = "not checked: it is not a folder here; as a hub name it is fetched when the run starts"
        found.rows.append(Row("weights", "warn", f"{path}: {note}"))
    else:
        found.rows.append(
            Row("weights", missing, f"{path}: no such folder; weights and processor not checked", "set model.path")
        )


def _check_memory(found: Finding, tree: dict[str, Any], cluster: Cluster, model_shape: str, data: Data | None) -> None:
    from pipeline.cli.checks.lengths import longest_batch  # importing transformers takes seconds
    from pipeline.models.shape import find_shape, shape_of

    recipe = found.recipe
    try:
        file = find_shape(model_shape)
        shape = shape_of(recipe.model, file)
    except GstError as error:
        found.refuse("memory", error, "warn" if isinstance(error, ModelError) and "no config" in error.what else "bad")
        return
    found.rows.append(Row("model config", "ok", str(file)))
    datasets = len(data.datasets) if data else len(recipe.data.datasets or ()) or 14
    found.estimate = estimate(recipe, tree, shape, longest_batch(recipe, shape, data), cluster, datasets)
    found.rows += fit_rows(found.estimate, cluster, Path(recipe.out))
