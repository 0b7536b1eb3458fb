"""Runs that are followed in their folders, beside those that are pushed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.affinity.records import EventLine, RunRecord
from pipeline.affinity.service import follow
from pipeline.affinity.service.follow import Follower, LogIndex
from pipeline.affinity.service.runs import RunBook
from pipeline.affinity.service.schemas import EventPage
from pipeline.affinity.service.timeline import Timelines
from pipeline.affinity.store.store import open_store
from tests.unit.affinity.served import serve, write_run


def line(event: str, step: int, **more: Any) -> bytes:
    return json.dumps({"event": event, "t": float(step), "step": step, **more}).encode() + b"\n"


def score(step: int, loss: float, **more: Any) -> bytes:
    datasets = {"a": {"loss": loss, "token_accuracy": 0.5, "tokens": 9}, "b": {"loss": loss + 1}}
    return line("eval", step, split="val", samples=4 * step, tokens=9, wall_s=0.5, stage=0, datasets=datasets, **more)


def stage(step: int, number: int, pool: list[str]) -> bytes:
    return line("stage", step, samples=4 * step, stage=number, pool=pool, weights=dict.fromkeys(pool, 1.0))


def append(log: Path, *lines: bytes) -> int:
    """Adds bytes to a log; returns its size."""
    with open(log, "ab") as file:
        file.write(b"".join(lines))
    return log.stat().st_size


def kinds(page: EventPage) -> list[tuple[str, int]]:
    return [(each.event["event"], each.event["step"]) for each in page.events]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events-rank0.jsonl"
    path.touch()
    return path


def test_shown_events_are_read_as_the_log_grows(log: Path) -> None:
    index = LogIndex(log)
    assert index.read(0, 10) == EventPage(events=[], position=0)
    first = append(log, stage(0, 0, ["a"]), score(0, 3.0))
    second = append(log, line("step", 1), line("bad_sample", 1), line("data", 1))
    page = index.read(0, 10)
    assert kinds(page) == [("stage", 0), ("eval", 0)]
    assert page.events[-1].position == first and page.position == second
    assert index.read(second, 10) == EventPage(events=[], position=second)
    third = append(log, score(5, 2.0), line("checkpoint", 5), line("sketch", 5), line("decision", 5))
    assert kinds(index.read(second, 10)) == [("eval", 5), ("checkpoint", 5), ("sketch", 5), ("decision", 5)]
    page = index.read(0, 3)
    assert kinds(page)[-1] == ("eval", 5) and page.position == page.events[-1].position
    assert kinds(index.read(page.position, 10)) == [("checkpoint", 5), ("sketch", 5), ("decision", 5)]
    assert index.read(third + 1, 10).position == 0


def test_positions_are_those_that_jobs_push(log: Path) -> None:
    sizes = [append(log, each) for each in (score(0, 1.0), score(1, 1.0))]
    assert [each.position for each in LogIndex(log).read(0, 10).events] == sizes


def test_torn_and_unfinished_lines(log: Path) -> None:
    index = LogIndex(log)
    whole = append(
        log, score(0, 3.0), b'{"event": "eval", "t"\n', b"\n", b"[1]\n", b'{"step": 1}\n', b'{"event": []}\n'
    )
    append(log, score(1, 2.0)[:-20])
    page = index.read(0, 10)
    assert kinds(page) == [("eval", 0)] and page.position == whole
    append(log, score(1, 2.0)[-20:])
    assert kinds(index.read(whole, 10)) == [("eval", 1)]
    append(
        log, b'{"t": 1, "step": 2, "event": "resume"}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n", score(3, float("nan"))
    )
    page = index.read(0, 10)
    assert kinds(page)[-2:] == [("resume", 2), ("eval", 3)]
    assert page.events[-1].event["datasets"]["a"]["loss"] is None


def test_a_log_that_starts_anew_is_read_anew(log: Path) -> None:
    index = LogIndex(log)
    append(log, *[score(n, 3.0) for n in range(5)])
    assert index.read(0, 10).position == log.stat().st_size
    for fresh in (score(7, 1.0), b"".join(score(n, 9.0) for n in range(8, 30))):  # shorter, then longer than before
        log.write_bytes(fresh)
        page = index.read(0, 100)
        assert page.events[0].event["step"] in (7, 8) and page.position == len(fresh)
    log.unlink()
    assert index.read(0, 10) == EventPage(events=[], position=0)


def test_a_page_is_bounded_in_bytes(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MAX_PAGE_BYTES", 300)
    append(log, *[score(n, 3.0) for n in range(9)])
    index, steps, position = LogIndex(log), [], 0
    while page := index.read(position, 100):
        assert len(page.events) <= 3
        steps += [step for _, step in kinds(page)]
        if page.position == position:
            break
        position = page.position
    assert steps == list(range(9))


def test_runs_are_found_and_unusable_ones_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = tmp_path / "mini exp"
    follower = Follower(experiment)
    assert follower.runs() == []
    write_run(experiment, "gst-s0", started=2.0)
    write_run(experiment, "mix_all-s1", arm="mix_all", seed=1, started=1.0, status="finished", stop_reason="budget")
    write_run(experiment, "torn")
    (experiment / "arms" / "torn" / "run.json").write_text("{")
    for _ in range(2):
        runs = follower.runs()
        assert [run.record.name for run in runs] == ["mini-exp-mix_all-s1", "mini-exp-gst-s0"]
    assert runs[0].record.datasets == ("a", "b") and runs[0].file.stop_reason == "budget"
    assert caplog.text.count("torn") == 1
    write_status = experiment / "arms" / "gst-s0" / "run.json"
    write_status.write_text(json.dumps({**json.loads(write_status.read_text()), "status": "finished"}))
    assert follower.runs()[1].file.status == "finished"


def test_a_timeline_leaves_out_what_a_resume_made_void(log: Path) -> None:
    index, timelines = LogIndex(log), Timelines()

    def timeline() -> Any:
        return timelines.of("run", lambda after: index.read(after, 2))

    append(log, stage(0, 0, ["a"]), score(0, 4.0), score(10, 3.0), stage(10, 1, ["a", "b"]), score(20, 2.0))
    assert [point.step for point in timeline().evals] == [0, 10, 20]
    append(log, line("resume", 5), score(10, 2.5))
    found = timeline()
    assert [(point.step, point.loss, point.token_accuracy) for point in found.evals] == [
        (0, [4.0, 5.0], [0.5, None]),
        (10, [2.5, 3.5], [0.5, None]),
    ]
    assert found.datasets == ["a", "b"] and [each.stage for each in found.stages] == [0]
    assert [(each.step, each.t) for each in found.resumes] == [(5, 5.0)]
    assert found.position == log.stat().st_size and timeline() is found
    append(log, stage(0, 0, ["b"]), score(0, 9.0))  # from scratch
    found = timeline()
    assert [point.loss[0] for point in found.evals] == [9.0] and [each.pool for each in found.stages] == [["b"]]
    log.write_bytes(score(0, 1.0))
    found = timeline()
    assert (
        [point.loss[0] for point in found.evals] == [1.0]
        and found.stages == []
        and found.position == log.stat().st_size
    )


def test_a_timeline_passes_over_what_is_no_event_of_ours() -> None:
    odd: list[dict[str, Any]] = [
        {}, {"event": None}, {"event": "eval"}, {"event": "eval", "step": "1", "datasets": []},
        {"event": "eval", "step": -1, "datasets": {}}, {"event": "eval", "step": 1, "datasets": {"a": 1}},
        {"event": "resume", "step": {}}, {"event": "stage", "step": 1, "pool": "all"}, {"event": ["eval"], "step": 1},
        {"event": "eval", "step": 1, "split": {}, "datasets": {}},
    ]  # fmt: skip
    good = {"event": "eval", "step": 2, "datasets": {"a": {"loss": 1.0}}}
    lines = [EventLine(position=n + 1, event=each) for n, each in enumerate([*odd, good])]
    pages = [EventPage(events=lines, position=99)]
    found = Timelines().of("run", lambda after: pages.pop() if pages else EventPage(events=[], position=after))
    assert [point.step for point in found.evals] == [2]


def test_only_some_timelines_are_kept() -> None:
    timelines, asked = Timelines(max_runs=2), []

    def read(after: int) -> EventPage:
        asked.append(after)
        return EventPage(events=[], position=7)

    for run in ("a", "b", "c", "a"):
        timelines.of(run, read)
    assert asked.count(0) == 4
    timelines.of("c", read)
    assert asked.count(0) == 4


def test_pushed_and_followed_runs_are_one_list(tmp_path: Path) -> None:
    experiment = tmp_path / "mini"
    log = write_run(experiment, "gst-s0", config_digest="d" * 64)
    write_run(experiment, "gst-s1", seed=1, config_digest="e" * 64)
    write_run(experiment, "gst-s2", seed=2)
    size = append(log, score(0, 3.0))
    append(log, line("step", 1), score(2, 2.0))
    with serve(experiment, experiment=experiment) as client:
        for name, project, seed, digest in (
            ("mini-gst-s0", "mini", 0, "d" * 64),
            ("ours-gst-s1", "ours", 1, "e" * 64),  # service.project names it otherwise
            ("ours-gst-s2", "ours", 2, ""),  # another one: nothing says that they are the same
        ):
            record = RunRecord(
                name=name, project=project, arm="gst", seed=seed, datasets=("a", "b"), config_digest=digest
            )
            assert client.put(f"/v1/runs/{name}", json=record.model_dump()).status_code == 201
        pushed = [{"position": size, "event": json.loads(score(0, 3.0))}]
        assert client.post("/v1/runs/mini-gst-s0/events", json=pushed).json() == {"position": size}
        runs = {run["run"]["name"]: (run["stored"], run["followed"]) for run in client.get("/v1/runs").json()}
        assert runs == {
            "mini-gst-s0": (True, True),
            "ours-gst-s1": (True, True),
            "ours-gst-s2": (True, False),
            "mini-gst-s2": (False, True),
        }
        view = client.get("/v1/runs/mini-gst-s0").json()
        assert (view["status"], view["events"], view["updated"]) == ("running", size, log.stat().st_mtime)
        page = client.get("/v1/runs/mini-gst-s0/events").json()  # the log is ahead of what was pushed
        assert [each["event"]["step"] for each in page["events"]] == [0, 2]
        assert client.get(f"/v1/runs/mini-gst-s0/events?after={size}").json()["events"] == page["events"][1:]
        assert client.get("/v1/runs/mini-gst-s2/timeline").json()["evals"] == []
        assert "mini-gst-s" in client.get("/v1/runs/mini-gst-s9").json()["hint"]


def test_pushed_events_alone_make_a_timeline_too(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        record = RunRecord(name="far", project="p", arm="gst", datasets=("a", "b"))
        client.put("/v1/runs/far", json=record.model_dump())
        lines = [score(0, 3.0), line("data", 1), score(4, 2.0), line("resume", 2), score(4, 1.0)]
        body = [{"position": 100 * n, "event": json.loads(each)} for n, each in enumerate(lines, 1)]
        assert client.post("/v1/runs/far/events", json=body).json() == {"position": 500}
        first = client.get("/v1/runs/far/events?limit=2").json()
        assert [each["position"] for each in first["events"]] == [100] and first["position"] == 200
        rest = client.get("/v1/runs/far/events?after=200").json()
        assert [each["position"] for each in rest["events"]] == [300, 400, 500] and rest["position"] == 500
        assert client.get("/v1/runs/far/events?after=500").json() == {"events": [], "position": 500}
        found = client.get("/v1/runs/far/timeline").json()
        assert [point["loss"][0] for point in found["evals"]] == [3.0, 1.0] and found["position"] == 500


def test_a_timeline_is_whole_although_events_come_in_while_it_is_made(tmp_path: Path) -> None:
    record = RunRecord(name="far", project="p", arm="gst", datasets=("a", "b"))
    with open_store(tmp_path) as store:
        store.declare_run(record)
        waiting = [EventLine(position=100 * n, event=json.loads(score(n, 1.0))) for n in range(1, 5)]

        class Busy:
            """A store that another thread writes to between any two calls."""

            runs, run = store.runs, store.run

            def events(self, run: str, after: int, limit: int) -> list[EventLine]:
                if waiting:
                    store.append_events(run, [waiting.pop(0)])
                return store.events(run, after, limit)

        book = RunBook(Busy(), None)
        assert [point.step for point in book.timeline("far").evals] == [1, 2, 3, 4]
        assert book.timeline("far").position == 400
        assert book.events("far", 9000, 10).position == 400  # of another store: ask again
