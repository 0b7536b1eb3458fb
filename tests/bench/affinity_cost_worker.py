"""Runs on every rank, see `affinity_cost.py`: gradient probes and pair trainings by turns, each from the same base."""

from __future__ import annotations

import time

import torch

from pipeline.cli.errors import run_guarded
from pipeline.cli.gradients import take_gradients
from pipeline.cli.session import EVAL_SEED, Session
from pipeline.data.batches import eval_batches
from pipeline.engine import CheckpointStore
from pipeline.eval import score
from tests.bench.mini_worker import hand_back, new_trainer, open_session, worker_parser


def work() -> None:
    """One rank's part: probes and pair trainings, round by round; rank 0 hands the seconds back."""
    parser = worker_parser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--pair-steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    session = open_session(options)
    datasets = session.data.datasets
    new_trainer(session).warm_up(2)  # allocates what both ways need
    base = CheckpointStore(session.events.path.parent, session.comm, {}, keep=1)
    base.save(session.engine, 0, {}, {})
    order = torch.randperm(len(datasets), generator=torch.Generator().manual_seed(options.seed)).tolist()
    pairs = [[datasets[one], datasets[other]] for one, other in zip(order[::2], order[1::2], strict=False)]
    numbers: dict[str, object] = {"datasets": datasets, "pairs": pairs[: options.rounds]}
    started_s = time.perf_counter()
    evaluate(session, datasets)
    numbers["base_evaluation_s"] = time.perf_counter() - started_s
    probes, trainings = [], []
    for pair in pairs[: options.rounds]:
        start(session, base)
        started_s = time.perf_counter()
        cost = take_gradients(session, source="bench").cost
        probes.append(
            {"seconds": time.perf_counter() - started_s, **{key: cost[key] for key in ("steps", "backwards")}}
        )
        start(session, base)
        trainings.append(train_pair(session, pair, options.pair_steps))
    hand_back(session, {**numbers, "probes": probes, "trainings": trainings})


def start(session: Session, base: CheckpointStore) -> None:
    """Weights and optimizer as they were at the base."""
    folder = base.latest()
    assert folder is not None
    base.load(session.engine, folder)


def train_pair(session: Session, pair: list[str], steps: int) -> dict[str, float]:
    """Train on both, half and half, then score both: seconds of each."""
    started_s = time.perf_counter()
    new_trainer(session, dict.fromkeys(pair, 0.5)).warm_up(steps)
    trained_s = time.perf_counter()
    evaluate(session, pair)
    return {"train_s": trained_s - started_s, "evaluate_s": time.perf_counter() - trained_s}


def evaluate(session: Session, datasets: list[str]) -> None:
    """Validation loss on the fixed probe sets of `datasets`, as in training."""
    recipe, comm = session.recipe, session.comm
    batches = eval_batches(
        session.data.index, session.encode, "val", recipe.eval.val_per_dataset, recipe.eval.micro_batch,
        comm.rank, comm.world_size, EVAL_SEED, datasets=datasets,
    )  # fmt: skip
    score(session.engine, batches, datasets, comm, session.device)


if __name__ == "__main__":
    run_guarded(work)
