"""What `Transport` promises, asked of every transport: the store in this process and the one behind `gst serve`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.compute import compute_version
from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.local import LocalTransport
from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.records import EventLine, ProbeRecord, RunRecord, SketchKey
from pipeline.affinity.transport import Transport
from pipeline.affinity.versions import AffinityVersion
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError, ConflictError, MissingError, PayloadError

K = 64
DATASETS = ("a", "b", "c")
SPEC: dict[str, str | int] = {"k": K, "seed": 0, "version": 1, "gradient": "raw", "model": "m"}
OPTIONS = AffinityConfig(groups=2, bootstrap=10)


@pytest.fixture(scope="module", params=["local", "http"])
def transport(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    folder = tmp_path_factory.mktemp("store")
    if request.param == "local":
        yield LocalTransport(folder)
        return
    from pipeline.affinity.http import HttpTransport
    from tests.serving import start_service

    with start_service(folder) as service:
        yield HttpTransport(service.url, token_file=None)


@pytest.fixture
def run(transport: Transport) -> RunRecord:
    """A declared run that no other test uses."""
    record = RunRecord(name=f"run-{uuid.uuid4().hex}", project="exp", arm="gst", seed=1, datasets=DATASETS)
    assert transport.declare_run(record) is True
    return record


def make_stats(seed: int = 0, batches: int = 6) -> GradientStats:
    rng = np.random.default_rng(seed)
    return GradientStats.from_batches({name: rng.standard_normal((batches, K)) + 1 for name in DATASETS}, dict(SPEC))


def probe_of(run: RunRecord, **changed: object) -> ProbeRecord:
    return ProbeRecord.model_validate({"run": run.name, "step": 0, "datasets": DATASETS, "spec": SPEC, **changed})


def key_of(probe: ProbeRecord, dataset: str, contributor: str = "main") -> SketchKey:
    return SketchKey(
        run=probe.run, step=probe.step, dataset=dataset, contributor=contributor, spec=probe.spec_digest
    )  # fmt: skip


def push_all(transport: Transport, probe: ProbeRecord, stats: GradientStats) -> list[bool]:
    transport.declare_probe(probe)
    return [transport.push(key_of(probe, name), dump_contribution(stats, name)) for name in probe.datasets]


def same_version(left: AffinityVersion, right: AffinityVersion) -> bool:
    """The id digests everything but the time."""
    return left.id == right.id and left.created == right.created


def test_a_run_is_declared_once(transport: Transport, run: RunRecord) -> None:
    assert transport.declare_run(run) is False
    (status,) = [each for each in transport.runs() if each.run.name == run.name]
    assert status.run == run and status.declared and status.probes == () and status.events == 0
    with pytest.raises(ConflictError, match="differ in arm, seed") as caught:
        transport.declare_run(run.model_copy(update={"seed": 2, "arm": "other"}))
    assert caught.value.hint


def test_runs_come_in_the_order_of_their_declaration(transport: Transport) -> None:
    names = [f"{letter}-{uuid.uuid4().hex}" for letter in "cab"]
    for name in names:
        transport.declare_run(RunRecord(name=name, project="p", arm="a", datasets=DATASETS))
    assert [each.run.name for each in transport.runs() if each.run.name in names] == names


def test_a_probe_is_declared_once_and_every_job_may_say_its_own_cost(transport: Transport, run: RunRecord) -> None:
    probe = probe_of(run, cost={"seconds": 2.0}, source="abc")
    assert transport.declare_probe(probe) is True
    assert transport.declare_probe(probe) is False
    assert transport.declare_probe(probe.model_copy(update={"cost": {"seconds": 9.0}})) is False
    status = transport.probe(run.name, 0)
    assert status.probe == probe and status.declared
    assert status.missing == ("a/main", "b/main", "c/main")
    for changed in ({"datasets": ("a", "b")}, {"spec": {**SPEC, "seed": 1}}, {"source": "abd"}, {"kind": "window"},
                    {"groups": ("lora",)}, {"contributors": ("main", "other")}):  # fmt: skip
        with pytest.raises(ConflictError, match=f"differ in {next(iter(changed))}"):
            transport.declare_probe(probe.model_copy(update=changed))
    with pytest.raises(PayloadError, match="size"):
        transport.declare_probe(probe_of(run, step=1, spec={"seed": 0}))


def test_what_was_not_declared_is_missing(transport: Transport, run: RunRecord) -> None:
    lost = run.model_copy(update={"name": f"{run.name}x"})
    payload = dump_contribution(make_stats(), "a")
    for use in (
        lambda: transport.declare_probe(probe_of(lost)),
        lambda: transport.probe(lost.name, 0),
        lambda: transport.push(key_of(probe_of(lost), "a"), payload),
        lambda: transport.group(lost.name, 0, OPTIONS),
        lambda: transport.append_events(lost.name, [EventLine(position=1, event={})]),
    ):
        with pytest.raises(MissingError) as caught:
            use()
        assert caught.value.hint is not None and run.name in caught.value.hint
    for use in (
        lambda: transport.probe(run.name, 7),
        lambda: transport.push(key_of(probe_of(run, step=7), "a"), payload),
        lambda: transport.group(run.name, 7, OPTIONS),
    ):
        with pytest.raises(MissingError):
            use()


def test_a_push_counts_once_and_what_is_stored_stays(transport: Transport, run: RunRecord) -> None:
    probe = probe_of(run)
    assert push_all(transport, probe, make_stats()) == [True, True, True]
    assert push_all(transport, probe, make_stats()) == [False, False, False]
    with pytest.raises(ConflictError, match="other sketches are stored") as caught:
        transport.push(key_of(probe, "a"), dump_contribution(make_stats(1), "a"))
    assert caught.value.where["dataset"] == "a"
    assert push_all(transport, probe, make_stats()) == [False, False, False]
    assert transport.probe(run.name, 0).is_complete
    (status,) = [each for each in transport.runs() if each.run.name == run.name]
    assert status.probes == (0,)


def test_sketches_of_another_kind_are_refused_with_the_keys_that_differ(transport: Transport, run: RunRecord) -> None:
    probe = probe_of(run)
    transport.declare_probe(probe)
    other = replace(make_stats(), spec={**SPEC, "seed": 1, "gradient": "sign"})
    mixed = key_of(probe_of(run, spec=other.spec), "a")
    for key in (mixed, key_of(probe, "a")):
        with pytest.raises(PayloadError, match="differ in gradient, seed") as caught:
            transport.push(key, dump_contribution(other, "a"))
        assert caught.value.got == {"gradient": "sign", "seed": 1}
    with pytest.raises(PayloadError, match="another kind"):
        transport.push(mixed, dump_contribution(make_stats(), "a"))
    assert len(transport.probe(run.name, 0).missing) == 3


def test_payloads_that_are_no_sketches_are_refused(transport: Transport, run: RunRecord) -> None:
    probe = probe_of(run)
    transport.declare_probe(probe)
    good = dump_contribution(make_stats(), "a")
    poisoned = bytearray(good)
    poisoned[-8:] = np.array([np.nan]).tobytes()  # the last number of the last array
    for payload in (good[:-1], good[:100], b"", b"{}", bytes(poisoned), dump_contribution(make_stats(), "b")):
        with pytest.raises(PayloadError):
            transport.push(key_of(probe, "a"), payload)
    for key in (key_of(probe, "z"), key_of(probe, "a", "stranger")):
        with pytest.raises(PayloadError, match="no such"):
            transport.push(key, good)
    assert transport.push(key_of(probe, "a"), good) is True


def test_a_probe_waits_for_every_contributor(transport: Transport, run: RunRecord) -> None:
    probe = probe_of(run, contributors=("one", "two"))
    transport.declare_probe(probe)
    shares = {"one": make_stats(1), "two": make_stats(2)}
    expected = [f"{dataset}/{contributor}" for dataset in DATASETS for contributor in shares]
    for dataset in DATASETS:
        for contributor, share in shares.items():
            with pytest.raises(MissingError, match=f"{len(expected)} of 6") as caught:
                transport.group(run.name, 0, OPTIONS)
            assert caught.value.got == expected == list(transport.probe(run.name, 0).missing)
            transport.push(key_of(probe, dataset, contributor), dump_contribution(share, dataset))
            expected.remove(f"{dataset}/{contributor}")
    version = transport.group(run.name, 0, OPTIONS)
    assert version.parameters["batches"] == dict.fromkeys(DATASETS, 12)


def test_a_complete_probe_gives_one_version(transport: Transport, run: RunRecord) -> None:
    probe = probe_of(run, source=run.name, step=3, cost={"seconds": 1.0})
    stats = make_stats(int(run.name[-4:], 16))
    push_all(transport, probe, stats)
    version = transport.group(run.name, 3, OPTIONS)
    assert version.inputs == compute_version(stats, OPTIONS).inputs
    assert (version.datasets, version.source, version.cost) == (list(DATASETS), run.name, {"seconds": 1.0})
    assert same_version(transport.group(run.name, 3, OPTIONS), version)
    assert same_version(transport.version(version.id), version)
    other = transport.group(run.name, 3, AffinityConfig(groups=1, bootstrap=10))
    assert other.id != version.id
    mine = [each for each in transport.versions() if each.run == run.name]
    assert [(each.id, each.step, each.groups, each.datasets) for each in mine] == [
        (version.id, 3, 2, 3), (other.id, 3, 1, 3)
    ]  # fmt: skip
    assert mine[0].verdict == version.verdict and mine[0].created == version.created


def test_sketches_that_do_not_suffice_are_refused(transport: Transport, run: RunRecord) -> None:
    push_all(transport, probe_of(run), make_stats(batches=1))
    with pytest.raises(AffinityError, match="too few micro-batches"):
        transport.group(run.name, 0, OPTIONS)


def test_a_version_from_elsewhere_is_kept_as_it_is(transport: Transport, run: RunRecord) -> None:
    version = compute_version(replace(make_stats(), source=run.name), OPTIONS)
    assert transport.put_version(version) is True
    assert transport.put_version(replace(version, created="later")) is False
    assert same_version(transport.version(version.id), version)
    (summary,) = [each for each in transport.versions() if each.id == version.id]
    assert summary.run is None and summary.created == version.created


def test_versions_that_are_not_there(transport: Transport) -> None:
    with pytest.raises(MissingError):
        transport.version("v-000000000000")
    for odd in ("../store.db", "latest", "v-0000000000", "v-000000000000/..", ""):
        with pytest.raises(PayloadError):
            transport.version(odd)


def test_events_are_appended_in_order_and_counted_once(transport: Transport, run: RunRecord) -> None:
    lines = [EventLine(position=10 * n, event={"event": "eval", "step": n, "loss": {"a": 0.5}}) for n in range(1, 6)]
    assert transport.append_events(run.name, []) == 0
    assert transport.append_events(run.name, lines[:2]) == 20
    assert transport.append_events(run.name, lines[:2]) == 20
    assert transport.append_events(run.name, lines[1:4]) == 40
    assert transport.append_events(run.name, lines[:1]) == 40
    with pytest.raises(ConflictError):
        transport.append_events(run.name, [EventLine(position=20, event={"event": "another"}), lines[4]])
    with pytest.raises(ConflictError):
        transport.append_events(run.name, [EventLine(position=15, event=lines[0].event)])
    with pytest.raises(PayloadError, match="rising"):
        transport.append_events(run.name, [lines[4], lines[3]])
    with pytest.raises(PayloadError):
        transport.append_events(run.name, [EventLine(position=60, event={"loss": float("nan")})])
    (status,) = [each for each in transport.runs() if each.run.name == run.name]
    assert status.events == 40
    assert transport.append_events(run.name, lines) == 50


def test_strange_places_are_missing_or_refused(transport: Transport, run: RunRecord) -> None:
    for name in ("../../etc/passwd", "", "a/b", "%2e%2e", "x\x00y", "ä"):
        with pytest.raises((MissingError, PayloadError)):
            transport.probe(name, 0)
    for step in (-1, 2**70):
        with pytest.raises((MissingError, PayloadError)):
            transport.probe(run.name, step)


def test_the_folder_is_where_the_store_is(tmp_path: Path) -> None:
    LocalTransport(tmp_path / "deep" / "affinity").declare_run(
        RunRecord(name="r", project="p", arm="a", datasets=DATASETS)
    )
    assert (tmp_path / "deep" / "affinity" / "store.db").is_file()
