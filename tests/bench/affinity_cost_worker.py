"""Runs on every rank, see `affinity_cost.py`: gradient probes and pair trainings by turns, each from the same base."""

from __future__ import annotations

import time

import torch

from pipeline.cli.errors import run_guarded
from pipeline.cli.gradients import take_gradients
from pipeline.cli.transfer import ShortTrainings, cost_of
from pipeline.runlog import RunConsole
from tests.bench.mini_worker import EVERY_S, hand_back, new_trainer, open_session, worker_parser


def work() -> None:
    """One rank's part: probes and pair trainings, round by round; rank 0 hands the seconds back."""
    parser = worker_parser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    session = open_session(options)
    datasets = session.data.datasets
    started_s = time.monotonic()
    trainer = new_trainer(session)
    trainer.warm_up(2)  # allocates what both ways need
    trainings = ShortTrainings(session, session.events.path.parent, source="bench")
    trainings.save_base(cost_of(trainer.clock, started_s))
    order = torch.randperm(len(datasets), generator=torch.Generator().manual_seed(options.seed)).tolist()
    pairs = [(datasets[one], datasets[other]) for one, other in zip(order[::2], order[1::2], strict=False)]
    numbers: dict[str, object] = {"datasets": datasets, "pairs": pairs[: options.rounds]}
    started_s = time.perf_counter()
    trainings.losses(tuple(datasets))
    numbers["base_evaluation_s"] = time.perf_counter() - started_s
    probes, measured = [], []
    for pair in pairs[: options.rounds]:
        trainings.restore()
        started_s = time.perf_counter()
        cost = take_gradients(session, source="bench").cost
        probes.append(
            {"seconds": time.perf_counter() - started_s, **{key: cost[key] for key in ("steps", "backwards")}}
        )
        measured.append(train_pair(trainings, pair))
    hand_back(session, {**numbers, "probes": probes, "trainings": measured})


def train_pair(trainings: ShortTrainings, pair: tuple[str, str]) -> dict[str, float]:
    """What `gst transfer` does for a pair, in seconds: back to the base, train on both, score both."""
    started_s = time.perf_counter()
    trainings.restore()
    restored_s = time.perf_counter()
    steps = trainings.session.recipe.transfer.steps
    trainings.train(pair, 0, RunConsole(trainings.session.comm.rank, steps, "bench", every_s=EVERY_S))
    trained_s = time.perf_counter()
    trainings.losses(pair)
    return {
        "restore_s": restored_s - started_s,
        "train_s": trained_s - restored_s,
        "evaluate_s": time.perf_counter() - trained_s,
    }


if __name__ == "__main__":
    run_guarded(work)
