"""Whether a run that is killed goes on as if nothing had happened: real trainings of the mini model under ZeRO-3.

A training on 2 ranks by groups of datasets, with weights that change, buckets of durations, least shares and a worker
thread, is run once undisturbed. Then it is started again and again, and all its processes get SIGKILL at random
moments: while it starts, trains, evaluates or writes a checkpoint. A run that ends before its moment comes is compared,
and the kills go on in a new folder. What is compared is all that was ever logged, also what a later resume made void:
`loss_max_diff` over losses of steps, evaluations and the test; `sample_ids_differ`, micro-batches of other examples
than planned; `decisions_differ`, decisions and stages of the schedule.

With --world-size A:B a training on A ranks is killed and goes on with B ranks, from its newest checkpoint to its end;
`sample_ids_differ` are the micro-batches after it that are not those of the undisturbed training on A ranks.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError, TrainingError
from tests.bench.common import context, describe_machine, figure, run_benchmark
from tests.bench.mini_data import RANKS, TIMEOUT_S, Mini, add_mini_options, open_mini
from tests.bench.resume_log import RunLog
from tests.launching import kill_all, run_ranks, start_ranks

KILLS = 20
STEPS = 48
TRAINING = "tests.bench.resume_worker"
RECIPE = "mini-gst-domain"
COMPLETE = "complete.json"  # as `pipeline.engine.checkpoint` writes it; to import that takes seconds
OPTIONS = (
    "train.global_batch=12",  # six micro-batches: for 1, 2, 3 or 6 ranks
    "train.micro_batch=2",
    "train.lr_schedule.warmup_steps=2",
    "train.eval_every=4",
    "train.checkpoint_every=3",
    "eval.val_per_dataset=4",
    "eval.test_per_dataset=2",
    "sketch.k=256",
    "sketch.window_steps=4",
    "data.workers=1",
    "data.bucket=4",
    "data.min_share=0.3",
    "service.push_windows=false",
)
_LAST_CHARACTERS = 2000
_LOOK_EVERY_S = 0.1


class Killing:
    """One training in as many folders as its kills take.

    Args:
        out: folder for all of it.
        ranks: of the training.
    """

    def __init__(self, mini: Mini, out: Path, n_steps: int, ranks: int, seed: int) -> None:
        self._words = [RECIPE, *mini.overrides(), f"train.max_steps={n_steps}", *OPTIONS]
        self._out = out
        self._ranks = ranks
        self._rng = random.Random(seed)
        self.runs: list[RunLog] = []
        started_s = time.time()
        self.whole = self._run_to_end("whole")
        self._start_s = self.whole.first_step_s - started_s
        self._loop_s = self.whole.last_step_s - self.whole.first_step_s
        context(f"undisturbed on {ranks} ranks: {n_steps} steps in {self._loop_s:.0f} s")

    def words(self, name: str) -> list[str]:
        """Recipe and overrides of the run called `name`."""
        return [*self._words, f"out={self._out / name}"]

    def survive(self, n_kills: int) -> None:
        """Kill so often, starting anew where a run has ended; then let the last run end."""
        kills = 0
        while kills < n_kills:
            name = f"killed-{len(self.runs)}"
            # Most of a short run is start-up; every third kill may hit it, the others wait for a step.
            if self.kill(name, after_a_step=kills % 3 != 2):
                kills += 1
            else:
                self.runs.append(RunLog(self._folder(name), self._ranks))
        self.runs.append(self._run_to_end(f"killed-{len(self.runs)}"))

    def kill(self, name: str, *, after_a_step: bool) -> bool:
        """Start a run, or go on with it, and kill it at a random moment; False when it ended before that.

        Raises:
            TrainingError: it failed before that.
        """
        before = RunLog(self._folder(name), self._ranks).n_lines
        process = start_ranks(TRAINING, *self.words(name), ranks=self._ranks)
        try:
            while after_a_step and process.poll() is None:
                if RunLog(self._folder(name), self._ranks).n_lines > before:
                    break
                time.sleep(_LOOK_EVERY_S)
            process.wait(self._rng.uniform(0, self._loop_s / 2 if after_a_step else self._start_s))
        except subprocess.TimeoutExpired:
            return True
        finally:
            if process.poll() is None:
                kill_all(process)
        if process.returncode:
            said = process.stdout.read() if process.stdout else ""
            raise TrainingError(f"a run that was not killed failed: {said[-_LAST_CHARACTERS:]}")
        return False

    def newest_checkpoint(self, name: str) -> int | None:
        """The step of the newest whole checkpoint."""
        found = (self._folder(name) / "checkpoints").glob(f"step-*/{COMPLETE}")
        return max((int(mark.parent.name.removeprefix("step-")) for mark in found), default=None)

    def go_on(self, name: str, ranks: int) -> RunLog:
        """The log of the run called `name` from its newest checkpoint on, with `ranks` ranks, in a copy of its folder.

        What it logged before stays behind: other ranks wrote that.
        """
        other = f"{name}-on-{ranks}"
        shutil.copytree(self._out / name, self._out / other, ignore=shutil.ignore_patterns("events-*"))
        _require_success(run_ranks(TRAINING, *self.words(other), ranks=ranks, timeout_s=TIMEOUT_S))
        return RunLog(self._folder(other), ranks)

    def _folder(self, name: str) -> Path:
        return next((self._out / name / "arms").glob("*"), self._out / name)

    def _run_to_end(self, name: str) -> RunLog:
        _require_success(run_ranks(TRAINING, *self.words(name), ranks=self._ranks, timeout_s=TIMEOUT_S))
        return RunLog(self._folder(name), self._ranks)


def main(argv: Sequence[str]) -> None:
    """Print the figures; a missed target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench resume", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="3 kills of a short run: shows that it runs")
    parser.add_argument("--kills", type=int, help=f"default: {KILLS}")
    parser.add_argument("--steps", type=int, help=f"of each run (default: {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--world-size", nargs="+", metavar="A:B", help="ranks before and after, such as 2:1 2:3")
    add_mini_options(parser)
    options = parser.parse_args(argv)
    n_steps = options.steps or (18 if options.quick else STEPS)
    pairs = [_pair(text) for text in options.world_size or ()]
    describe_machine(("torch", "deepspeed", "transformers"))
    with open_mini(options) as mini:
        if pairs:
            measure_world_sizes(mini, pairs, n_steps, options.seed)
        else:
            measure_kills(mini, options.kills or (3 if options.quick else KILLS), n_steps, options.seed)


def measure_kills(mini: Mini, n_kills: int, n_steps: int, seed: int) -> None:
    """Print the figures of a training that is killed `n_kills` times."""
    killing = Killing(mini, mini.out, n_steps, RANKS, seed)
    killing.survive(n_kills)
    whole, runs = killing.whole, killing.runs
    repeated = sum(run.n_lines - run.n_distinct for run in runs)
    context(f"{n_kills} kills in {len(runs)} runs, {repeated} micro-batches trained on more than once")
    figure("loss_max_diff", max(run.loss_difference(whole) for run in runs), "nats", target=1e-6, better="lower")
    differ = sum(run.samples_differing(whole) for run in runs)
    figure("sample_ids_differ", differ, "micro-batches", target=0, better="lower")
    differ = sum(run.decisions_differing(whole) for run in runs)
    figure("decisions_differ", differ, "decisions", target=0, better="lower")


def measure_world_sizes(mini: Mini, pairs: Sequence[tuple[int, int]], n_steps: int, seed: int) -> None:
    """Print the figure of trainings that go on with another number of ranks, over all `pairs`."""
    total = 0
    for before in dict.fromkeys(before for before, _ in pairs):
        killing = Killing(mini, mini.out / f"from-{before}", n_steps, before, seed)
        name, step = "killed", None
        while step is None:
            if not killing.kill(name, after_a_step=True):
                raise TrainingError("the run ended before it was killed", hint="give more --steps")
            step = killing.newest_checkpoint(name)
        for after in (after for first, after in pairs if first == before):
            differ, compared = killing.whole.samples_differing_after(step, killing.go_on(name, after))
            context(f"{before}:{after}: from step {step} on {differ} of {compared} micro-batches differ")
            total += differ
    figure("sample_ids_differ", total, "micro-batches", target=0, better="lower")


def _pair(text: str) -> tuple[int, int]:
    before, colon, after = text.partition(":")
    if not (colon and before.isdigit() and after.isdigit()):
        raise ConfigError("ranks before and after are two numbers", got=text, expected="such as 2:3")
    return int(before), int(after)


def _require_success(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        said = (done.stdout + done.stderr)[-_LAST_CHARACTERS:]
        raise TrainingError(f"a run that was not killed failed: {said}", where={"exit code": done.returncode})


if __name__ == "__main__":
    run_benchmark(main)
