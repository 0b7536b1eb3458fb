"""Runs on every rank: all pair trainings of a recipe, with the engine's state looked at in between."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

from pipeline import engine as engine_room
from pipeline.affinity.transfer_log import TransferHeader, open_log
from pipeline.cli.errors import run_guarded
from pipeline.cli.probe import probe_recipe
from pipeline.cli.session import Data, Session
from pipeline.cli.transfer import ShortTrainings, prepare, train_all
from pipeline.cli.transfer_results import transfer_folder
from pipeline.config import load_recipe
from pipeline.models.load import trainable_parameters
from pipeline.runlog import RunConsole


def main() -> None:
    """Rank 0 prints digests of the state: of the base, after a training, and after coming back, twice."""
    recipe = load_recipe(
        sys.argv[-1],
        ["transfer.trainings=pair", "transfer.steps=2", "data.datasets=[height,colour]", "probe.warmup_steps=3"],
    )
    data, folder = Data(recipe), transfer_folder(recipe)
    header = TransferHeader(source="test", datasets=tuple(data.datasets), trainings="pair", steps=2)
    trainings = ShortTrainings(Session(probe_recipe(recipe), data, folder), folder, header.source)
    if trainings.session.comm.rank == 0:
        open_log(folder, header)  # or the base below would be taken for that of other trainings, and made again
    trainings.session.comm.barrier()
    trainings.make_base()
    states = [digest_of_state(trainings)]
    log = prepare(trainings, folder, header)
    trainings.train(("height",), 0, RunConsole(1, 1, ""))
    states.append(digest_of_state(trainings))
    for _ in range(2):
        trainings.restore()
        states.append(digest_of_state(trainings))
        train_all(trainings, log)
    if trainings.session.comm.rank == 0:
        results = log.results(1)
        numbers: dict[str, Any] = {"states": states, "base": results.base.tolist(), "after": results.after.tolist()}
        print("NUMBERS " + json.dumps(numbers), flush=True)
    engine_room.shutdown(trainings.session.comm)


def digest_of_state(trainings: ShortTrainings) -> str:
    """Of every trained parameter and both of Adam's moments, bit for bit; a collective."""
    digest = hashlib.sha256()
    for name, parameter in trainable_parameters(trainings.session.engine.module).items():
        digest.update(name.encode())
        digest.update(safe_get_full_fp32_param(parameter).numpy().tobytes())
        for moment in ("exp_avg", "exp_avg_sq"):
            digest.update(safe_get_full_optimizer_state(parameter, moment).numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    assert Path(sys.argv[-1]).is_file()
    run_guarded(main)
