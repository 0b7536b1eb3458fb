"""`gst transfer`: short trainings from one base, and what they do to every dataset's validation loss."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

import torch

from pipeline.affinity.transfer_log import BASE, TransferHeader, TransferLine, TransferLog, open_log, read_log
from pipeline.cli.gradients import warm_up
from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.probe import probe_recipe
from pipeline.cli.session import Data, Session, digest_of
from pipeline.cli.transfer_results import transfer_folder
from pipeline.config import Recipe, load_recipe, recipe_digest
from pipeline.config.schema import ProbeConfig
from pipeline.config.training import AveragingConfig, LrScheduleConfig
from pipeline.dist import launched_rank
from pipeline.errors import ConfigError, TrainingError
from pipeline.models.exported import base_digest
from pipeline.runlog import RunConsole
from pipeline.schedule import StageController, build_plan
from pipeline.types import Clock

# Added to the run's seed, once more for each repeat: an order of data that neither the warm-up nor another repeat has.
REPEAT_SEED = 2_000_003
RANK_SEED = 1_000_003
# Sections of a recipe that change nothing in a short training, so that changing them costs none.
IRRELEVANT = ("arm", "out", "logging", "service", "schedule", "sketch", "affinity")


def transfer(
    recipe: RecipeOption, overrides: Overrides = None, ranks: RanksOption = None, local_rank: LocalRank = 0
) -> None:
    """Write <out>/transfer: what training briefly on one dataset, or on two, does to the loss of the others."""
    if ranks is not None:
        launch("pipeline.cli.transfer", ["-c", recipe, *(overrides or [])], ranks)
    run_transfer(load_recipe(recipe, overrides or ()))


def run_transfer(recipe: Recipe) -> None:
    """Do every short training that `<out>/transfer` lacks; raises what `Session` does."""
    if recipe.train.optimizer.name == "schedule_free":
        raise ConfigError(
            "a short training with a schedule-free optimizer would be judged by weights that it does not mean",
            where={"key": "train.optimizer.name"},
            hint="gst transfer ... train.optimizer.name=adamw",
        )
    folder, data = transfer_folder(recipe), Data(recipe)
    header = TransferHeader(
        source=results_source(recipe, data),
        datasets=tuple(data.datasets),
        trainings=recipe.transfer.trainings,
        steps=recipe.transfer.steps,
    )
    done = read_log(folder)
    if done is not None and done.header == header and done.is_complete(recipe.transfer.seeds):
        if launched_rank() == 0:
            print(f"{folder}: already done")
        return
    from pipeline import engine as engine_room

    session = Session(probe_recipe(recipe), data, folder)
    trainings = ShortTrainings(session, folder, header.source)
    log = prepare(trainings, folder, header)
    train_all(trainings, log)
    if session.comm.rank == 0:
        cost = log.results(recipe.transfer.seeds).cost
        print(f"{folder}: {cost['trainings']} trainings, {cost['steps']:.0f} steps, {cost['seconds']:.1f} s in all")
    engine_room.shutdown(session.comm)


def results_source(recipe: Recipe, data: Data) -> str:
    """Digest of what decides the results: more repeats of the same trainings may be added later."""
    settled = recipe.model_copy(
        update={
            "transfer": recipe.transfer.model_copy(update={"seeds": 1}),
            "probe": ProbeConfig(warmup_steps=recipe.probe.warmup_steps),
        }
    )
    digest = recipe_digest(settled, ignore=IRRELEVANT)
    return digest_of([digest, base_digest(recipe.model.path), data.index.digests])


class ShortTrainings:
    """Trainings of `transfer.steps` steps, each from the same weights and optimizer state.

    They run at the recipe's full learning rate: the base is warmed up, and a decay belongs to a whole run. All random
    numbers follow from the repeat, so a training does not depend on those before it.
    """

    def __init__(self, session: Session, folder: Path, source: str) -> None:
        from pipeline import engine as engine_room

        self.session = session
        self.base = engine_room.CheckpointStore(folder, session.comm, {"source": source}, keep=1)
        recipe = session.recipe
        plain = {
            "lr_schedule": LrScheduleConfig(warmup_steps=0, decay_share=0),
            "averaging": AveragingConfig(),
            "grades": None,
            "keep_best": None,
        }
        self._recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=plain)})
        scores_all = recipe.transfer.trainings == "source"
        self._validation = session.fixed_batches(
            "val", recipe.eval.val_per_dataset, recipe.eval.micro_batch, cache=scores_all
        )

    def make_base(self) -> None:
        """The probe's warm-up, saved as what every training starts from; nothing if that is there."""
        if self.base.latest() is None:
            started = time.monotonic()
            self.save_base(cost_of(warm_up(self.session), started))

    def save_base(self, cost: dict[str, float]) -> None:
        """The engine as it is now becomes the base, which took `cost` to make."""
        self.base.save(self.session.engine, int(cost["steps"]), cost, {})

    def restore(self) -> dict[str, float]:
        """Weights and optimizer of the base; returns what the base took."""
        folder = self.base.latest()
        assert folder is not None, "there is no base yet"
        return self.base.load(self.session.engine, folder).shared

    def train(self, names: tuple[str, ...], repeat: int, console: RunConsole) -> Clock:
        """Train on equal shares of `names`; call `restore` first."""
        from pipeline import engine as engine_room

        session, data = self.session, self.session.data
        seed = session.recipe.train.seed + REPEAT_SEED * (1 + repeat)
        torch.manual_seed(seed + RANK_SEED * (1 + session.comm.rank))  # dropout
        controller = StageController(build_plan(self._recipe, {n: data.sizes[n] for n in names}, {}), self._recipe)
        loader = session.train_loader(controller.weights, seed)
        session.events.write("training", trained_on=list(names), repeat=repeat)
        trainer = engine_room.Trainer(
            recipe=self._recipe,
            engine=session.engine,
            loader=loader,
            controller=controller,
            evaluate=lambda: {},
            datasets=data.datasets,
            comm=session.comm,
            events=session.events,
            console=console,
        )
        trainer.warm_up(self._recipe.transfer.steps)
        loader.close()
        return trainer.clock

    def losses(self, names: tuple[str, ...]) -> dict[str, float]:
        """Validation loss of each of `names` on the fixed probe set.

        Raises:
            TrainingError: one is not finite.
        """
        session, evaluation = self.session, self.session.recipe.eval
        batches = self._validation
        if len(names) < len(session.data.datasets):
            batches = session.fixed_batches("val", evaluation.val_per_dataset, evaluation.micro_batch, datasets=names)
        scores = session.score(batches)
        found = {name: scores[name].loss for name in names}
        bad = [name for name, loss in found.items() if not math.isfinite(loss)]
        if bad:
            raise TrainingError(
                "a validation loss is not finite",
                where={"datasets": ", ".join(bad), "rank": session.comm.rank},
                hint="lower train.optimizer.lr or transfer.steps, or look at these datasets' audio and answers",
            )
        return found


def cost_of(clock: Clock, started: float) -> dict[str, float]:
    """What training to `clock` took, and the seconds since `started` (`time.monotonic`)."""
    seconds = time.monotonic() - started
    return {"samples": clock.samples, "tokens": clock.tokens, "steps": clock.step, "seconds": seconds}


class TrainingsConsole(RunConsole):
    """One progress line over the steps of all trainings."""

    def __init__(self, rank: int, trainings: int, steps: int) -> None:
        super().__init__(rank, trainings * steps, "transfer")
        self._steps = steps
        self._before = 0
        self._names = ""

    def begin(self, number: int, names: tuple[str, ...]) -> None:
        """The training that comes is the `number`-th (from 0) of all."""
        self._before, self._names = number * self._steps, "+".join(names)

    def step(self, step: int, **numbers: object) -> None:
        super().step(self._before + step, on=self._names, loss=numbers["loss"])


def prepare(trainings: ShortTrainings, folder: Path, header: TransferHeader) -> TransferLog:
    """The log, equal on every rank, and the base on disk with its losses in the log."""
    comm, found = trainings.session.comm, None
    if comm.rank == 0:
        found = _open(folder, header)
    log: TransferLog = comm.broadcast_object(found)
    trainings.make_base()
    if log.find(BASE) is None:
        started = time.monotonic()
        cost = trainings.restore()
        losses = trainings.losses(header.datasets)
        cost["seconds"] += time.monotonic() - started
        _keep(trainings, log, TransferLine(trained_on=BASE, losses=losses, cost=cost))
    return log


def train_all(trainings: ShortTrainings, log: TransferLog) -> None:
    """Every training that is still to do, each result kept before the next begins."""
    session, transfer_config = trainings.session, trainings.session.recipe.transfer
    to_do = log.to_do(transfer_config.seeds)
    before = len(log.lines) - 1
    console = TrainingsConsole(session.comm.rank, before + len(to_do), transfer_config.steps)
    if before:
        console.say(f"going on after {before} trainings")
    base = log.find(BASE)
    assert base is not None
    for number, (names, repeat) in enumerate(to_do, start=before):
        started = time.monotonic()
        console.begin(number, names)
        trainings.restore()
        clock = trainings.train(names, repeat, console)
        scored = log.header.datasets if log.header.trainings == "source" else names
        losses = trainings.losses(scored)
        line = TransferLine(trained_on=names, repeat=repeat, losses=losses, cost=cost_of(clock, started))
        _keep(trainings, log, line)
        change = ", ".join(f"{name} {base.losses[name]:.3f} -> {losses[name]:.3f}" for name in names)
        console.say(f"training {number + 1}/{before + len(to_do)}, repeat {repeat}: {change}")
    console.close()


def _open(folder: Path, header: TransferHeader) -> TransferLog:
    """Rank 0: the log of these trainings; a base that is not theirs goes before anything else can be said of it."""
    found = read_log(folder)
    if found is None or found.header != header:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    log, aside = open_log(folder, header)
    if aside is not None:
        print(f"{folder}: results of another recipe, base model or data are set aside in {aside.name}")
    return log


def _keep(trainings: ShortTrainings, log: TransferLog, line: TransferLine) -> None:
    """Into every rank's log; rank 0 writes it to disk before anybody goes on."""
    if trainings.session.comm.rank == 0:
        log.append(line)
    else:
        log.lines.append(line)
    trainings.session.comm.barrier()


if __name__ == "__main__":
    run_as_module(transfer)
