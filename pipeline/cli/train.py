"""`gst train`: one arm with one seed, resumed where it stopped. `deepspeed --module pipeline.cli.train` is the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.versions import load_version
from pipeline.cli.affinity_link import RunLink
from pipeline.cli.exporting import save_trained_model
from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.recording import build_recorder
from pipeline.cli.records import forget_result, is_finished, results_of, write_result, write_run
from pipeline.cli.resume import AUTO, Resume, ResumeOption
from pipeline.cli.session import Data, Session, digest_of
from pipeline.config import Recipe, affinity_source, load_recipe, load_stages, run_folder
from pipeline.dist import Comm, launched_rank
from pipeline.errors import ConfigError, Stopped, StoppedTogether
from pipeline.eval.examples import ScoredExample, add_up, keep_examples, kept_examples
from pipeline.runlog import MlflowLog, RunConsole, RunFolder
from pipeline.schedule import StagePlan, build_controller
from pipeline.stopping import StopSignals
from pipeline.types import DatasetScore

if TYPE_CHECKING:
    from pipeline.engine import FreshStarts

KEPT = "examples"  # below the run's folder: results, example by example, of models that are gone


def train(
    recipe: RecipeOption,
    overrides: Overrides = None,
    ranks: RanksOption = None,
    resume: ResumeOption = "auto",
    dry_run: Annotated[
        list[Path] | None,
        typer.Option("--dry-run", help="Only simulate the schedule, on the loss curves of this finished run."),
    ] = None,
    local_rank: LocalRank = 0,
) -> None:
    """Train one arm; finished runs are left alone, stopped ones go on from their last checkpoint."""
    if dry_run:
        from pipeline.cli.dry_run import dry_run as simulate

        simulate(load_recipe(recipe, overrides or ()), dry_run)
        return
    if ranks is not None:
        launch("pipeline.cli.train", ["-c", recipe, *(overrides or []), "--resume", resume], ranks)
    train_stages(load_stages(recipe, overrides or ()), Resume.parse(resume))


def train_stages(recipes: list[Recipe], resume: Resume) -> None:
    """The runs of a recipe file, one after the other in one process group.

    Raises:
        ConfigError: a step to resume from, where there are several runs.
    """
    if resume.step is not None and len(recipes) > 1:
        raise ConfigError(
            "a step to resume from is of one run, and this recipe has several",
            where={"option": "--resume"},
            got=resume.step,
            hint="--resume auto goes on with the run that was stopped",
        )
    comms = [run_training(recipe, resume) for recipe in recipes]
    started = [comm for comm in comms if comm is not None]
    if started:
        from pipeline import engine as engine_room

        engine_room.shutdown(started[-1])


def run_training(recipe: Recipe, resume: Resume) -> Comm | None:
    """Build every part from `recipe`, train to its budget, score the test split, write `result.json`.

    Returns:
        What is to be shut down in the end; None when the run was finished already.

    Raises:
        Stopped: a signal asked for it.
    """
    folder = run_folder(recipe)
    data = Data(recipe)
    plan = data.plan()
    recipe = pin_affinity(recipe, plan)
    if resume == AUTO and is_finished(folder, recipe):
        if launched_rank() == 0:
            print(f"{folder}: already finished")
        return None
    with StopSignals().listening() as stop:
        session = Session(recipe, data, folder, plan)
        run = Run(session, plan, folder, stop)
        try:
            run.execute(resume)
        except BaseException as error:
            if run.trainer.mlflow:
                failed = isinstance(error, Exception) and not isinstance(error, Stopped)
                run.trainer.mlflow.stop("FAILED" if failed else "KILLED")
            if isinstance(error, StoppedTogether):
                session.comm.barrier()  # the launcher ends the others as soon as one has left
            raise
    return session.comm


def pin_affinity(recipe: Recipe, plan: StagePlan) -> Recipe:
    """Write the version the plan was made from into the recipe, so that a resume never regroups silently."""
    if plan.affinity_version is None:
        return recipe
    schedule = recipe.schedule.model_copy(update={"version": plan.affinity_version})
    return recipe.model_copy(update={"schedule": schedule})


class Run:
    """One training run from its parts to its result files.

    Args:
        stop: signals that ask it to stop; None: it cannot be asked.
    """

    def __init__(self, session: Session, plan: StagePlan, folder: Path, stop: StopSignals | None = None) -> None:
        from pipeline import engine as engine_room

        self.session, self.plan, self.folder = session, plan, folder
        self._window: GradientStats | None = None
        recipe = session.recipe
        controller = build_controller(plan, recipe)
        validation = session.fixed_batches("val", recipe.eval.val_per_dataset, recipe.eval.micro_batch, cache=True)
        self.console = RunConsole(session.comm.rank, recipe.train.max_steps, folder.name)
        self.checkpoints = engine_room.CheckpointStore(
            folder, session.comm, session.identity(), recipe.train.keep_checkpoints
        )
        self.loader = session.train_loader(controller.weights, recipe.train.seed, plan)
        source = digest_of(session.identity())
        self.link = RunLink(recipe, session.data.datasets, folder, source) if session.comm.rank == 0 else None
        self.trainer = engine_room.Trainer(
            recipe=recipe,
            engine=session.engine,
            loader=self.loader,
            controller=controller,
            evaluate=lambda: session.score(validation),
            datasets=session.data.datasets,
            comm=session.comm,
            events=session.events,
            console=self.console,
            checkpoints=self.checkpoints,
            recorder=build_recorder(session, self._close_window if self.link else None),
            closed_window=lambda: self._window,
            fresh_starts=self._fresh_starts(),
            stop=stop,
        )

    def _close_window(self, stats: GradientStats, step: int) -> None:
        """On rank 0: what a window of gradients says goes to the schedule and to the affinity store."""
        self._window = stats
        if self.link:
            self.link.publish_window(stats, step)

    def _fresh_starts(self) -> FreshStarts | None:
        from pipeline import engine as engine_room

        if not any(stage.reset for stage in self.plan.stages):
            return None
        session = self.session
        return engine_room.FreshStarts(self.folder, session.comm, session.identity(), self._score_leaving)

    def _score_leaving(self, datasets: list[str]) -> dict[str, DatasetScore]:
        """Test scores of the weights in the engine, which will be gone; files keep what is behind these scores."""
        examples = self.session.test(self.trainer.clock.step, datasets)
        if self.session.comm.rank == 0:
            keep_examples(self.folder / KEPT, examples)
        return add_up(examples, datasets)

    def _test(self) -> list[ScoredExample]:
        """The whole test split, each dataset by the model that was trained on it; complete on rank 0 only."""
        fresh = self.trainer.fresh_starts
        scores = fresh.scores if fresh else {}
        rest = [name for name in self.session.data.datasets if name not in scores]
        examples = self.session.test(self.trainer.clock.step, rest)
        return examples if self.session.comm.rank else examples + kept_examples(self.folder / KEPT, scores)

    def execute(self, resume: Resume = AUTO) -> None:
        """Go on as `resume` says, train, score the test split, write the result."""
        started = time.time()
        trainer, session, recipe = self.trainer, self.session, self.session.recipe
        if not resume.never:
            trainer.resume(resume.step)
        if resume != AUTO:  # what came after that point is no longer of this run
            self.checkpoints.forget_after(trainer.clock.step if resume.step is not None else -1)
            forget_result(session.comm, self.folder)
        self._write_run("running", started, fresh=resume.never)
        if session.comm.rank == 0 and recipe.logging.mlflow:
            trainer.mlflow = MlflowLog(RunFolder(self.folder, recipe))
        clock = trainer.run()
        examples = self._test()
        results = results_of(session, examples)
        if recipe.train.save_model:
            best = trainer.best.step if trainer.best else None
            save_trained_model(session, self.folder, clock.step, best, results)
        session.events.write(
            "data",
            step=clock.step,
            datasets=self.loader.counters(),
            pools=self.loader.pool_counters(),
            **session.feature_counts(),
        )
        self._write_run("finished", started)
        if results:
            write_result(session, self.folder, clock, results)
            self.console.say(f"{self.folder.name}: {results.line()}")
        if trainer.mlflow:
            trainer.mlflow.finish()
        self.console.say(f"{self.folder.name}: finished after {clock.step} steps, {clock.wall_s:.0f} s in the loop")
        self.console.close()
        session.events.close()
        left = self.link.close() if self.link else None
        if left:
            self.console.say(left)

    def _write_run(self, status: str, started: float, *, fresh: bool = False) -> None:
        schedule, version = self.session.recipe.schedule, self.plan.affinity_version
        cost = None
        if version is not None and schedule.grouping in ("gradient", "transferability"):
            cost = load_version(affinity_source(self.session.recipe), version).cost
        write_run(
            self.session,
            self.folder,
            status=status,
            started=started,
            fresh=fresh,
            stop_reason="budget",
            mlflow_run_id=self.trainer.mlflow.run_id if self.trainer.mlflow else None,
            affinity_version=version,
            uses_affinity=cost is not None,
            affinity_cost=cost,
        )


if __name__ == "__main__":
    run_as_module(train)
