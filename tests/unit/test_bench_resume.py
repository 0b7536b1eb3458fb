"""`gst bench resume` must see a difference wherever there is one, also in what a later resume made void."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from tests.bench.resume import _pair
from tests.bench.resume_log import RunLog

Events = list[list[dict[str, Any]]]


def run_events() -> Events:
    """Two ranks, three steps with two micro-batches a rank, an evaluation with a decision."""
    ranks: Events = []
    for rank in range(2):
        events: list[dict[str, Any]] = []
        for step in (1, 2, 3):
            batches = [["alpha", [f"s{step}r{rank}b{number}"]] for number in range(2)]
            events.append({"event": "samples", "t": step, "step": step, "batches": batches})
            events.append(
                {"event": "step", "t": step, "step": step, "datasets": {"alpha": {"n": 4, "loss": 3.0 / step}}}
            )
        events.append({"event": "eval", "t": 3, "step": 3, "datasets": {"alpha": {"loss": 0.5}}})
        events.append({"event": "decision", "t": 3, "step": 3, "weights": {"alpha": 1.0}, "reason": {"rule": "flat"}})
        ranks.append(events)
    return ranks


def log(folder: Path, ranks: Events) -> RunLog:
    folder.mkdir()
    for rank, events in enumerate(ranks):
        (folder / f"events-rank{rank}.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "result.json").write_text(json.dumps({"datasets": {"alpha": {"loss": 0.25}}}))
    return RunLog(folder, len(ranks))


def differences(folder: Path, change: Callable[[Events], object]) -> tuple[float, int, int]:
    ranks = run_events()
    change(ranks)
    whole, other = log(folder / "whole", run_events()), log(folder / "other", ranks)
    return other.loss_difference(whole), other.samples_differing(whole), other.decisions_differing(whole)


def repeat_last_steps(ranks: Events) -> None:
    """As after a kill: steps 2 and 3 come again, at other times."""
    for events in ranks:
        again = [{**event, "t": 99} for event in events if event["step"] > 1]
        events += [{"event": "resume", "t": 98, "step": 1}, *again]


def void_other_samples(ranks: Events) -> None:
    ranks[1].insert(2, {"event": "samples", "t": 1, "step": 2, "batches": [["beta", ["s2r1b0"]]]})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda ranks: None, (0.0, 0, 0)),
        (repeat_last_steps, (0.0, 0, 0)),
        (void_other_samples, (0.0, 1, 0)),
        (lambda ranks: ranks[1].__delitem__(slice(4, 5)), (0.0, 2, 0)),
        (lambda ranks: ranks[0][1]["datasets"]["alpha"].update(loss=3.5), (0.5, 0, 0)),
        (lambda ranks: ranks[0].pop(1), (float("inf"), 0, 0)),
        (lambda ranks: ranks[0][-1].update(weights={"alpha": 0.5}), (0.0, 0, 1)),
        (lambda ranks: ranks[0].pop(), (0.0, 0, 1)),
    ],
)
def test_differences_are_counted(
    tmp_path: Path, change: Callable[[Events], object], expected: tuple[float, int, int]
) -> None:
    assert differences(tmp_path, change) == pytest.approx(expected)


def test_another_number_of_ranks_is_compared_by_slots_from_a_step_on(tmp_path: Path) -> None:
    whole = log(tmp_path / "whole", run_events())
    # Slot j is rank j mod 2's micro-batch j div 2; one rank has all four in a row.
    one = [
        {
            "event": "samples",
            "t": 0,
            "step": step,
            "batches": [["alpha", [f"s{step}r{j % 2}b{j // 2}"]] for j in range(4)],
        }
        for step in (2, 3)
    ]
    assert whole.samples_differing_after(1, log(tmp_path / "one", [one])) == (0, 8)
    one[0]["batches"].reverse()
    assert whole.samples_differing_after(1, log(tmp_path / "reversed", [one])) == (4, 8)
    assert whole.samples_differing_after(1, log(tmp_path / "short", [one[1:]])) == (4, 8)


@pytest.mark.parametrize("text", ["2", "2:", "a:b", "2-1"])
def test_pairs_of_ranks_are_two_numbers(text: str) -> None:
    assert _pair("2:3") == (2, 3)
    with pytest.raises(ConfigError, match="two numbers"):
        _pair(text)
