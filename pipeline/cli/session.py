"""What `train`, `probe` and `eval` share: the parts of a run, built from a recipe in one order on every rank."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.cli.clustering import ensure_clusters
from pipeline.cli.feature_files import open_features
from pipeline.cli.sampling import build_source, needs_clusters
from pipeline.config import Recipe, recipe_digest
from pipeline.config.deepspeed import render_deepspeed
from pipeline.data.batches import Encode, EvalBatches, eval_batches
from pipeline.data.index import ShardIndex
from pipeline.data.loader import TrainLoader
from pipeline.data.mixture import Mixture
from pipeline.data.pools import task_sizes
from pipeline.data.sources import Source
from pipeline.dist import Comm, launched_world_size
from pipeline.errors import ShardError
from pipeline.eval import generate, score, score_examples
from pipeline.eval.examples import Answers, ScoredExample, with_answers
from pipeline.models.encode import AnswerEncoder
from pipeline.models.exported import base_digest
from pipeline.models.load import load_model, load_processor
from pipeline.runlog import EventLog
from pipeline.schedule import StagePlan, build_plan
from pipeline.schedule.tasks import needs_tasks
from pipeline.sketch.hooks import GradientSketcher, default_group_of, full_shapes, trainable_by_name
from pipeline.sketch.partition import PartitionSketcher
from pipeline.sketch.spec import SketchSpec, model_digest
from pipeline.types import DatasetScore

# The probe set and its order never depend on a run's seed: all arms and seeds are judged on the same examples.
EVAL_SEED = 20_260_519
SECOND_SEED = 1_000_003  # added to the sketch's seed for its second one


@dataclass
class Data:
    """The prepared corpora a recipe names; needs no process group, so mistakes are found before one is made."""

    recipe: Recipe

    def __post_init__(self) -> None:
        data = self.recipe.data
        self.index = ShardIndex(
            data.shards,
            data.datasets,
            max_duration_s=data.max_duration_s,
            train_per_dataset=data.train_per_dataset,
            cache=data.cache,
        )
        self.datasets = sorted(self.index.datasets)
        self.sizes = {name: self.index.n_examples(name, "train") for name in self.datasets}

    def plan(self) -> StagePlan:
        """The stages of the recipe; raises what `build_plan` does."""
        tasks = task_sizes(self.index) if needs_tasks(self.recipe) else None
        return build_plan(self.recipe, self.sizes, self.domains, tasks)

    @cached_property
    def domains(self) -> dict[str, str]:
        return {name: str(self.index.manifests[name].domain) for name in self.datasets}

    def require_same(self, comm: Comm) -> None:
        """ShardError on every rank unless all of them found the same data; every rank calls it."""
        first, *others = comm.gather_objects(self.index.digests)
        differing = sorted({name for each in others for name, _ in set(each.items()) ^ set(first.items())})
        if differing:
            raise ShardError(
                "the ranks of this run see different prepared data",
                where={"shards": self.index.shards, "datasets": ", ".join(differing)},
                hint="bring the copies on all machines to one state; if the data is being written, wait for its end",
            )


class Session:
    """A model on its engine with data, evaluation and log, on this rank.

    Everything a user can get wrong is checked before the process group forms.

    Args:
        plan: of the run, when it has one; clusters that it draws from are made here.
    """

    def __init__(self, recipe: Recipe, data: Data, folder: Path, plan: StagePlan | None = None) -> None:
        # Only the engine room imports deepspeed; importing it takes seconds, which `gst --help` should not pay.
        from pipeline import engine as engine_room

        render_deepspeed(recipe, launched_world_size())
        self.recipe = recipe
        self.data = data
        self.processor = load_processor(recipe.model.path)
        self.encode = AnswerEncoder(self.processor, fast=recipe.data.features.fast, pad_audio=recipe.model.pad_audio)
        self.comm: Comm = engine_room.init_distributed()
        data.require_same(self.comm)
        self.events = EventLog(folder, self.comm.rank)
        self.clusters = None
        if plan is not None and needs_clusters(plan):  # before this run's own model takes the memory
            self.clusters = ensure_clusters(recipe, data.index, self.comm, self.report_bad)
        torch.manual_seed(recipe.train.seed)  # the adapters' first values, equal on every rank
        model = load_model(recipe.model)
        self.features = open_features(recipe, data.index, self.encode, model)
        if self.features:
            self.events.write("features", cache=recipe.data.features.cache, **self.features.counts())
        self.engine = engine_room.build_engine(recipe, model, self.comm.world_size)
        torch.manual_seed(recipe.train.seed + 1_000_003 * (1 + self.comm.rank))  # dropout, different on every rank
        self.device = engine_room.device_of(self.engine)

    def train_loader(self, weights: dict[str, float], seed: int, plan: StagePlan | None = None) -> TrainLoader:
        """This rank's loader of training micro-batches.

        Args:
            weights: dataset -> share of the mixture; a dataset not named is not drawn.
            seed: of the mixture and of each dataset's order.
            plan: whose stages are drawn from; None: whole datasets.

        Raises:
            WorldSizeError: the batch cannot be dealt to the ranks.
            ShardError: a dataset has no training examples.
        """
        from pipeline import engine as engine_room

        index = self.data.index
        source: Source
        if plan is None:
            data = self.recipe.data
            source, pools = Mixture(self.data.datasets, seed, weights, data.draw, data.min_share), None
        else:
            source, pools = build_source(self.recipe, index, plan, weights, seed, self.clusters)
        return TrainLoader(
            index,
            source,
            engine_room.pinned(self.encode, self.device),
            global_batch=self.recipe.train.global_batch,
            micro_batch=self.recipe.train.micro_batch,
            comm_rank=self.comm.rank,
            world_size=self.comm.world_size,
            seed=seed,
            workers=self.recipe.data.workers,
            on_bad=self.report_bad,
            pools=pools,
            bucket=self.recipe.data.bucket,
        )

    def fixed_batches(
        self,
        split: str,
        per_dataset: int | None,
        micro_batch: int,
        *,
        cache: bool = False,
        datasets: Sequence[str] | None = None,
        encode: Encode | None = None,
    ) -> EvalBatches:
        """A fixed set of examples in this rank's micro-batches; `datasets`: of these only.

        Args:
            encode: None: for teacher forcing.
        """
        return eval_batches(
            self.data.index,
            encode or self.encode,
            split,
            per_dataset,
            micro_batch,
            self.comm.rank,
            self.comm.world_size,
            EVAL_SEED,
            datasets=self.data.datasets if datasets is None else datasets,
            cache=cache,
            on_bad=self.report_bad,
        )

    def score(self, batches: EvalBatches) -> dict[str, DatasetScore]:
        return score(self.engine, batches, self.data.datasets, self.comm, self.device, self.recipe.train.speed)

    def test(self, step: int, datasets: Sequence[str]) -> list[ScoredExample]:
        """The test split of these datasets by the weights in the engine, example by example; every rank calls it.

        The first `eval.generate_per_dataset` of each are answered freely as well.

        Args:
            step: of these weights, for the log.
        """
        if not datasets:
            return []
        evaluation, started_s = self.recipe.eval, time.monotonic()
        batches = self.fixed_batches("test", evaluation.test_per_dataset, evaluation.micro_batch, datasets=datasets)
        examples = score_examples(self.engine, batches, self.comm, self.device, self.recipe.train.speed)
        scored_s, answers = time.monotonic(), {}
        if evaluation.generate_per_dataset != 0:
            answers = self._answers(datasets)
        self.events.write(
            "test",
            step=step,
            seconds=scored_s - started_s,
            generate_seconds=time.monotonic() - scored_s,
            examples=len(examples),
            generated=len(answers),
        )
        return with_answers(examples, answers)

    def _answers(self, datasets: Sequence[str]) -> Answers:
        evaluation = self.recipe.eval
        limits = [n for n in (evaluation.generate_per_dataset, evaluation.test_per_dataset) if n is not None]
        batches = self.fixed_batches(
            "test",
            min(limits, default=None),
            evaluation.micro_batch,
            datasets=datasets,
            encode=self.encode.prompts,
        )
        return generate(self.engine.module, batches, self.encode, evaluation.max_new_tokens, self.comm, self.device)

    def sketcher(
        self, *, second_seed: bool = False, denominators: Mapping[str, torch.Tensor] | None = None
    ) -> GradientSketcher:
        """Hooks on the engine's model; a second seed is only for measuring the sketch's own error.

        Args:
            denominators: for `sketch.gradient: adam`, see `GradientSketcher`.
        """
        return GradientSketcher(
            self.engine.module.named_parameters(),
            self._sketch_spec(self.recipe.sketch.gradient, second_seed),
            default_group_of(self.recipe.sketch.group_by),
            denominators=denominators,
        )

    def partition_sketcher(self, *, second_seed: bool = False) -> PartitionSketcher:
        """The same for reduced gradients, without hooks."""
        gradient = self.recipe.sketch.gradient
        spec = self._sketch_spec("sign_of_step" if gradient == "sign" else gradient, second_seed)
        return PartitionSketcher(
            self.engine.module.named_parameters(), spec, default_group_of(self.recipe.sketch.group_by)
        )

    def _sketch_spec(self, gradient: str, second_seed: bool) -> SketchSpec:
        sketch = self.recipe.sketch
        shapes = full_shapes(trainable_by_name(self.engine.module.named_parameters()))
        return SketchSpec(
            k=sketch.k,
            seed=sketch.seed + SECOND_SEED * second_seed,
            gradient=gradient,
            model=model_digest(self.base_digest, shapes),
        )

    @cached_property
    def base_digest(self) -> str:
        return base_digest(self.recipe.model.path)

    def feature_counts(self) -> dict[str, Any]:
        """What this rank read from a cache of features so far, under the name `features`; nothing without a cache."""
        return {"features": self.features.counts()} if self.features else {}

    def report_bad(self, dataset: str, example_id: str, reason: str) -> None:
        self.events.write("bad_sample", dataset=dataset, example=example_id, reason=reason)

    def identity(self) -> dict[str, Any]:
        """What makes a checkpoint belong to this run and no other."""
        return {
            "recipe": recipe_digest(self.recipe),
            "base model": self.base_digest,
            "data": digest_of(self.data.index.digests),
        }


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
