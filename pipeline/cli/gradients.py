"""The probe's work on every rank: warm up on everything, then sketch every dataset's gradients at that checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from pipeline.affinity.adaptive import more_batches_needed
from pipeline.affinity.estimator import GradientStats
from pipeline.cli.session import EVAL_SEED, Session
from pipeline.data.batches import chosen_batches, n_micro_batches
from pipeline.errors import AffinityError
from pipeline.runlog import RunConsole
from pipeline.schedule import StageController, build_plan
from pipeline.sketch.accumulator import SketchWindow, group_batches_fit
from pipeline.sketch.hooks import GradientSketcher
from pipeline.types import Clock, MicroBatch


def warm_up(session: Session) -> Clock:
    """Train a few steps on everything, so that the probe's checkpoint is no longer the untouched base.

    With LoRA this is needed: B starts at zero, and then A has no gradient.
    """
    from pipeline import engine as engine_room

    recipe, data, comm = session.recipe, session.data, session.comm
    # The session's recipe, not the data's: short trainings warm up on everything before there are groups to plan with.
    controller = StageController(build_plan(recipe, data.sizes, data.domains), recipe)
    trainer = engine_room.Trainer(
        recipe=recipe,
        engine=session.engine,
        loader=session.train_loader(controller.weights, recipe.train.seed),
        controller=controller,
        evaluate=lambda: {},
        datasets=data.datasets,
        comm=comm,
        events=session.events,
        console=RunConsole(comm.rank, recipe.probe.warmup_steps, "probe warm-up"),
    )
    trainer.warm_up(recipe.probe.warmup_steps)
    return trainer.clock


def take_gradients(session: Session, source: str, *, part: int = 0, parts: int = 1) -> GradientStats:
    """Warm up, then probe; the cost counts both.

    With `probe.max_batches` rounds follow, in which datasets that are not clear yet get more micro-batches, until none
    needs any. Every rank decides alike, on the statistics of all ranks.

    Args:
        part, parts: which of several jobs that probe together this is. They share the `probe.batches_per_dataset` (to
            `max_batches`) micro-batches: each takes every `parts`-th of a dataset's fixed order, from `part` on.
    """
    from pipeline import engine as engine_room

    recipe, comm = session.recipe, session.comm
    is_adam = recipe.sketch.gradient == "adam"
    _require_share(session, part, parts)
    if is_adam:
        engine_room.require_whole_denominators(session.engine)
    started = time.monotonic()
    warmed = warm_up(session)
    # One checkpoint, one set of second moments: every dataset's gradients are divided by the same numbers.
    sketcher = session.sketcher(denominators=engine_room.whole_adam_denominators(session.engine) if is_adam else None)
    probe = _Probe(session, sketcher, part, parts)
    more = dict.fromkeys(session.data.datasets, probe.share_of(recipe.probe.batches_per_dataset))
    while more:
        probe.add(more)
        stats = GradientStats(**probe.window.all_reduce(comm).export(), source=source)
        more = _next_round(session, probe, stats)
        if comm.rank == 0 and more:
            print(say_more(stats, more), flush=True)
    sketcher.close()
    samples, tokens, backwards = comm.all_reduce_sum(
        torch.tensor([probe.samples, probe.tokens, probe.backwards], dtype=torch.float64)
    ).tolist()
    cost = {
        "samples": warmed.samples + int(samples),
        "tokens": warmed.tokens + int(tokens),
        "steps": warmed.step,
        "backwards": int(backwards),
        "seconds": time.monotonic() - started,
    }
    return replace(stats, cost=cost)


def _require_share(session: Session, part: int, parts: int) -> None:
    """AffinityError where this part would have nothing to do; found before the warm-up."""
    index, probe = session.data.index, session.recipe.probe
    largest = max(n_micro_batches(index, name, "train", probe.micro_batch) for name in session.data.datasets)
    if part >= min(largest, probe.batches_per_dataset):
        raise AffinityError(
            "there are no micro-batches for this job to probe: the others take them all",
            got=f"job {part + 1} of {parts}",
            expected=f"at most {min(largest, probe.batches_per_dataset)} jobs",
            hint="name fewer service.contributors, or raise probe.batches_per_dataset",
        )


def _next_round(session: Session, probe: _Probe, stats: GradientStats) -> dict[str, int]:
    """Dataset -> micro-batches to add, the same on every rank; {} at the end."""
    options = session.recipe.probe
    if options.max_batches is None:
        return {}
    more = more_batches_needed(
        stats,
        most=probe.share_of(options.max_batches),
        width=options.width,
        available=probe.available(stats),
        jobs=probe.parts,
    )
    return dict(session.comm.broadcast_object(more))  # ranks on other processors may round otherwise


def say_more(stats: GradientStats, more: Mapping[str, int]) -> str:
    """One line: which datasets get more micro-batches, from how many to how many."""
    had = dict(zip(stats.datasets, stats.count.tolist(), strict=True))
    each = ", ".join(f"{name} {had[name]} -> {had[name] + n}" for name, n in more.items())
    return f"probe: {sum(more.values())} more micro-batches for {len(more)} of {len(had)} datasets: {each}"


class _Probe:
    """The micro-batches that were sketched so far on this rank, and the next ones of each dataset.

    Attributes:
        window: their sketches; all ranks' together do not depend on the number of ranks.
        taken: dataset -> micro-batches of this part that all ranks have taken, readable and finite or not.
        samples, tokens, backwards: what they cost on this rank.
    """

    def __init__(self, session: Session, sketcher: GradientSketcher, part: int, parts: int) -> None:
        self.session = session
        self.sketcher = sketcher
        self.part, self.parts = part, parts
        size, index = session.recipe.probe.micro_batch, session.data.index
        self.numbers: dict[str, Sequence[int]] = {
            name: range(part, n_micro_batches(index, name, "train", size), parts) for name in session.data.datasets
        }
        options = session.recipe.probe
        self._most = self.share_of(options.max_batches or options.batches_per_dataset)
        self.taken = dict.fromkeys(session.data.datasets, 0)
        self.samples = self.tokens = self.backwards = 0
        self._key = 0  # of the round's first micro-batch: numbers of micro-batches go on from round to round
        kept = sum(min(self._most, len(numbers)) for numbers in self.numbers.values())
        self.window = SketchWindow(
            session.data.datasets,
            sketcher.groups,
            sketcher.spec,
            keep_batches=True,
            keep_groups=group_batches_fit(kept, len(sketcher.groups), sketcher.spec.k),
        )

    def share_of(self, micro_batches: int) -> int:
        """How many of a dataset's first micro-batches are this part's."""
        return len(range(self.part, micro_batches, self.parts))

    def available(self, stats: GradientStats) -> dict[str, int]:
        """Dataset -> micro-batches it can have in all: those of `stats`, and those that were not taken yet."""
        counted = dict(zip(stats.datasets, stats.count.tolist(), strict=True))
        return {
            name: counted[name] + min(self._most, len(numbers)) - self.taken[name]
            for name, numbers in self.numbers.items()
        }

    def add(self, more: Mapping[str, int]) -> None:
        """Sketch the next `more` micro-batches of each dataset, as far as there are. Every rank asks for the same."""
        from pipeline import engine as engine_room

        session, comm, size = self.session, self.session.comm, self.session.recipe.probe.micro_batch
        chosen = {
            name: numbers[self.taken[name] : self.taken[name] + more.get(name, 0)]
            for name, numbers in self.numbers.items()
        }
        batches = chosen_batches(
            session.data.index,
            session.encode,
            "train",
            chosen,
            size,
            comm.rank,
            comm.world_size,
            EVAL_SEED,
            on_bad=session.report_bad,
        )
        by_tokens = session.recipe.sketch.weight == "tokens"
        key = self._key + comm.rank

        @contextmanager
        def record(batch: MicroBatch, tokens: int) -> Iterator[None]:
            """Sketch the backward inside the block; keys go round the ranks, so they do not depend on how many."""
            nonlocal key
            with self.sketcher.micro_batch(1 / engine_room.loss_scale(session.engine)):
                yield
            if batch.counted:
                sketch = self.sketcher.take()
                self.window.add(batch.dataset, sketch, tokens, weight=tokens if by_tokens else 1, key=key)
                self.samples += len(batch.example_ids)
                self.tokens += tokens
            key += comm.world_size

        self.backwards += engine_room.probe_gradients(session.engine, batches, record, session.recipe.train.speed)
        for name, numbers in chosen.items():
            self.taken[name] += len(numbers)
            self._key += len(numbers)
