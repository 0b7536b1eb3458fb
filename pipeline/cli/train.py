"""`gst train`: one arm with one seed, resumed where it stopped. `deepspeed --module pipeline.cli.train` is the same."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.affinity.estimator import GradientStats, conflict_summary
from pipeline.atomic import write_atomic
from pipeline.cli.errors import run_guarded
from pipeline.cli.launch import launch
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.session import Data, Session, run_folder, scores_to_json
from pipeline.config import Recipe, dump_recipe, load_recipe, recipe_digest
from pipeline.dist import launched_rank
from pipeline.runlog import MlflowLog, RunConsole
from pipeline.schedule import StageController, StagePlan, build_plan
from pipeline.sketch.recorder import SketchRecorder


def train(
    recipe: RecipeOption,
    overrides: Overrides = None,
    ranks: RanksOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore checkpoints of this run.")] = False,
    local_rank: LocalRank = 0,
) -> None:
    """Train one arm; finished runs are left alone, stopped ones go on from their last checkpoint."""
    if ranks is not None:
        arguments = ["-c", recipe, *(overrides or []), *(["--fresh"] if fresh else [])]
        launch("pipeline.cli.train", arguments, ranks)
    run_training(load_recipe(recipe, overrides or ()), fresh=fresh)


def run_training(recipe: Recipe, *, fresh: bool = False) -> None:
    """Build every part from `recipe`, train to its budget, score the test split, write `result.json`."""
    folder = run_folder(recipe)
    data = Data(recipe)
    plan = build_plan(recipe, data.sizes, data.domains)
    recipe = pin_affinity(recipe, plan)
    if is_finished(folder, recipe) and not fresh:
        if launched_rank() == 0:
            print(f"{folder}: already finished")
        return
    from pipeline import engine as engine_room

    session = Session(recipe, data, folder)
    try:
        Run(session, plan, folder).execute(fresh)
    finally:
        engine_room.shutdown()


def pin_affinity(recipe: Recipe, plan: StagePlan) -> Recipe:
    """Write the version the plan was made from into the recipe, so that a resume never regroups silently."""
    if plan.affinity_version is None:
        return recipe
    schedule = recipe.schedule.model_copy(update={"version": plan.affinity_version})
    return recipe.model_copy(update={"schedule": schedule})


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether this very run (same recipe digest) has its result."""
    result, run = folder / "result.json", folder / "run.json"
    if not (result.exists() and run.exists()):
        return False
    return json.loads(run.read_text()).get("config_digest") == recipe_digest(recipe)


class Run:
    """One training run from its parts to its result files."""

    def __init__(self, session: Session, plan: StagePlan, folder: Path) -> None:
        from pipeline import engine as engine_room

        self.session, self.plan, self.folder = session, plan, folder
        recipe = session.recipe
        controller = StageController(plan, recipe)
        validation = session.fixed_batches("val", recipe.eval.val_per_dataset, recipe.eval.micro_batch, cache=True)
        self.console = RunConsole(session.comm.rank, recipe.train.max_steps, folder.name)
        self.checkpoints = engine_room.CheckpointStore(
            folder, session.comm, session.identity(), recipe.train.keep_checkpoints
        )
        self.trainer = engine_room.Trainer(
            recipe=recipe,
            engine=session.engine,
            loader=session.train_loader(controller.weights, recipe.train.seed),
            controller=controller,
            evaluate=lambda: session.score(validation),
            datasets=session.data.datasets,
            comm=session.comm,
            events=session.events,
            console=self.console,
            checkpoints=self.checkpoints,
            recorder=self._recorder(),
        )

    def execute(self, fresh: bool) -> None:
        started = time.time()
        trainer, recipe = self.trainer, self.session.recipe
        resumed = not fresh and trainer.resume()
        trainer.mlflow = self._mlflow(trainer.resumed_mlflow_run_id if resumed else None)
        self._write_run("running", started)
        clock = trainer.run()
        test = self.session.fixed_batches("test", recipe.eval.test_per_dataset, recipe.eval.micro_batch)
        scores = scores_to_json(self.session.score(test))
        if recipe.train.save_model:
            from pipeline import engine as engine_room

            engine_room.save_pretrained(
                self.session.engine, self.session.processor, self.folder / "model", self.session.comm
            )
        result = {
            "arm": recipe.arm,
            "seed": recipe.train.seed,
            "split": "test",
            "step": clock.step,
            "steps": clock.step,
            "samples": clock.samples,
            "tokens": clock.tokens,
            "wall_s": clock.wall_s,
            "datasets": scores,
        }
        self._write_run("finished", started)
        self._write("result.json", result)
        if trainer.mlflow:
            metrics = {f"test/{name}/{k}": v for name, row in scores.items() for k, v in row.items()}
            trainer.mlflow.metrics(metrics, clock.step)
            trainer.mlflow.artifact(self.folder / "result.json")
            trainer.mlflow.finish("FINISHED")
        self.console.say(f"{self.folder.name}: finished after {clock.step} steps, {clock.wall_s:.0f} s in the loop")
        self.console.close()
        self.session.events.close()

    def _recorder(self) -> SketchRecorder | None:
        sketch = self.session.recipe.sketch
        if not sketch.enabled:
            return None
        return SketchRecorder(
            self.session.sketcher(),
            self.session.data.datasets,
            self.session.comm,
            window_steps=sketch.window_steps,
            summarise=lambda export: conflict_summary(GradientStats(**export)),
        )

    def _mlflow(self, run_id: str | None) -> MlflowLog | None:
        recipe = self.session.recipe
        if self.session.comm.rank != 0 or not recipe.logging.mlflow:
            return None
        name = f"{Path(recipe.out).name}-{recipe.arm}-s{recipe.train.seed}"
        digests = {f"data.{name}": digest[:16] for name, digest in self.session.data.index.digests.items()}
        tags = {"git_sha": git_sha(), "config_digest": recipe_digest(recipe), **digests}
        return MlflowLog(recipe, name, tags, run_id)

    def _write_run(self, status: str, started: float) -> None:
        from pipeline import engine as engine_room

        recipe, comm = self.session.recipe, self.session.comm
        peak = sum(comm.gather_objects(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
        learning, total = engine_room.trainable_count(self.session.engine)
        run = {
            "arm": recipe.arm,
            "seed": recipe.train.seed,
            "experiment": recipe.out,
            "status": status,
            "world_size": comm.world_size,
            "started": started,
            "finished": time.time() if status == "finished" else None,
            "git_sha": git_sha(),
            "config_digest": recipe_digest(recipe),
            "data_digests": self.session.data.index.digests,
            "mlflow_run_id": self.trainer.mlflow.run_id if self.trainer.mlflow else None,
            "peak_rss_bytes": peak,
            "stop_reason": "budget",
            "uses_affinity": self.plan.affinity_version is not None and recipe.schedule.grouping == "gradient",
            "affinity_version": self.plan.affinity_version,
            "n_trainable": learning,
            "n_params": total,
            "model": recipe.model.path,
        }
        self._write("run.json", run)
        if comm.rank == 0:
            write_atomic(self.folder / "recipe.yaml", dump_recipe(recipe).encode())

    def _write(self, name: str, value: dict[str, Any]) -> None:
        if self.session.comm.rank == 0:
            write_atomic(self.folder / name, (json.dumps(value, indent=1) + "\n").encode())


def git_sha() -> str:
    """Commit of this checkout, with `-dirty` when files differ; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train)
    run_guarded(app)
