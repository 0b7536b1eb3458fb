"""`gst probe`: warm up on a mixture of everything, then take every dataset's gradients at that one checkpoint."""

from __future__ import annotations

from pipeline.affinity.estimator import GradientStats
from pipeline.atomic import write_atomic
from pipeline.cli.affinity_link import SEND_S, probe_publication, start_client
from pipeline.cli.gradients import take_gradients
from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.probe_mark import ProbeMark, mark_path, read_mark, write_mark
from pipeline.cli.session import Data, Session, digest_of
from pipeline.config import Recipe, dump_recipe, load_recipe, recipe_digest
from pipeline.config.deepspeed import require_adamw
from pipeline.dist import launched_rank
from pipeline.errors import AffinityError, ConfigError
from pipeline.models.exported import base_digest

# Sections of a recipe that do not change what a probe sees; `schedule` is replaced by the probe's own.
NOT_PROBED = ("arm", "out", "logging", "service", "eval", "schedule", "affinity", "transfer")


def probe(
    recipe: RecipeOption, overrides: Overrides = None, ranks: RanksOption = None, local_rank: LocalRank = 0
) -> None:
    """Publish gradient sketches of every dataset to the affinity store; <out>/probe says that it was done."""
    if ranks is not None:
        launch("pipeline.cli.probe", ["-c", recipe, *(overrides or [])], ranks)
    run_probe(probe_recipe(load_recipe(recipe, overrides or ())))


def probe_recipe(recipe: Recipe) -> Recipe:
    """The warm-up run of a probe: every dataset equally often, whatever the recipe's own schedule is."""
    schedule = recipe.schedule.model_copy(
        update={"regime": "mix_all", "weights": recipe.schedule.weights.model_copy(update={"kind": "uniform"})}
    )
    return recipe.model_copy(update={"arm": "probe", "schedule": schedule})


def probe_source(recipe: Recipe, data: Data) -> str:
    """Digest of what a probe sees: equal for all contributors, and whatever is done with the sketches later."""
    digests = [recipe_digest(recipe, ignore=NOT_PROBED), base_digest(recipe.model.path), data.index.digests]
    return digest_of([*digests, recipe.service.contributors])


def require_second_moments(recipe: Recipe) -> None:
    """ConfigError unless the warm-up gives Adam's second moments to divide gradients by."""
    require_adamw(recipe)
    if recipe.probe.warmup_steps == 0:
        raise ConfigError(
            "sketch.gradient=adam divides by second moments, which there are none of without a warm-up",
            where={"key": "probe.warmup_steps"},
            got=0,
            expected="1 or more",
        )


def run_probe(recipe: Recipe) -> None:
    """Probe and publish, unless that very probe was; raises what `Session` does."""
    if recipe.sketch.gradient == "adam":
        require_second_moments(recipe)
    data = Data(recipe)
    source = probe_source(recipe, data)
    mark = read_mark(recipe)
    if mark is not None and mark.source == source:
        if launched_rank() == 0:
            print(f"{mark_path(recipe)}: already probed")
        return
    from pipeline import engine as engine_room

    session = Session(recipe, data, mark_path(recipe).parent)
    service = recipe.service
    part, parts = service.contributors.index(service.contributor), len(service.contributors)
    stats = take_gradients(session, source, part=part, parts=parts)
    if session.comm.rank == 0:
        publish_probe(recipe, stats)
    engine_room.shutdown(session.comm)


def publish_probe(recipe: Recipe, stats: GradientStats) -> None:
    """Bring a probe's sketches to the store, or at least into the outbox; then mark the probe as taken.

    Raises:
        AffinityError: the store will never take them, or the outbox cannot be written.
    """
    path = mark_path(recipe)
    publication = probe_publication(recipe, stats)
    client = start_client(recipe)
    name = client.publish(publication)
    assert name is not None, "only windows are given up"
    write_atomic(path.parent / "recipe.yaml", dump_recipe(recipe).encode())
    record = publication.probe
    mark = ProbeMark(
        run=record.run,
        step=record.step,
        contributor=publication.contributor,
        source=stats.source,
        spec=record.spec,
        cost=stats.cost,
    )
    write_mark(recipe, mark)
    is_sent = client.close(SEND_S)
    reason = client.outbox.reason(name)
    if reason is not None:
        path.unlink()
        raise AffinityError("the affinity store does not take this probe", where={"run": record.run}, got=reason)
    where = "sent to the affinity store" if is_sent else f"waiting in {client.outbox.folder} ({client.trouble})"
    print(f"{path}: {stats.cost['backwards']} backwards, {stats.cost['seconds']:.1f} s with warm-up; sketches {where}")


if __name__ == "__main__":
    run_as_module(probe)
