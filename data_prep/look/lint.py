"""Check prepared shards: files against the manifest, samples against the contract, splits against one another.

What makes shards wrong, or an evaluation on them worthless, is a problem; what is only worth knowing is a note.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.look.leaks import (
    TRAIN,
    Leak,
    LeakSearch,
    SameAudio,
    ShardPlace,
    held_out_first,
    leak_lines,
    same_audio_lines,
)
from data_prep.look.leaks import find_leaks as find_leaks
from data_prep.look.lint_shard import ShardFindings, check_shard
from data_prep.look.reader import read_quarantine, read_side
from pipeline.atomic import is_stale_temporary
from pipeline.data.manifest import DATASET_NAME, MANIFEST_NAME, DatasetManifest, SplitEntry, manifest_digest, read_model
from pipeline.errors import ConfigError, ShardError
from pipeline.types import SPLITS


@dataclass
class LintReport:
    """One line each; the shards are good when there are no `problems`."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def lint(
    shards: Path,
    *,
    decode: bool = False,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> LintReport:
    """Everything that is wrong, or worth knowing, below `shards`.

    Args:
        decode: decode every FLAC too and compare its length.
        jobs: shards checked at a time. Threads do: hashing and decoding, where the time goes, leave the interpreter.
        progress: called with (shards checked, shards) after each.

    Raises:
        ShardError: the folder is missing or holds no dataset.
        ConfigError: `jobs` is not positive.
    """
    if jobs < 1:
        raise ConfigError("the number of jobs must be positive", where={"option": "jobs"}, got=jobs)
    report = LintReport()
    manifests = {}
    for folder in _dataset_folders(shards):
        manifest = _lint_folder(folder, report)
        if manifest is not None:
            manifests[folder.name] = manifest
    places = held_out_first(manifests.values(), shards)
    between = _BetweenShards()
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda place: check_shard(place, manifests[place.dataset].plan_hash, decode), places)
        for number, (place, findings) in enumerate(zip(places, found, strict=True), start=1):
            report.problems += [f"{place.dataset}/{place.tar.name}: {problem}" for problem in findings.problems]
            between.add(place, findings)
            if progress is not None:
                progress(number, len(places))
    between.report(manifests, report)
    return report


class _BetweenShards:
    """What only shows when shards are compared: repeated keys and clips, wrong totals, leaks, equal audio."""

    def __init__(self) -> None:
        self._keys: dict[str, Counter[str]] = {}
        self._clip_ids: dict[str, Counter[str]] = {}
        self._totals: dict[tuple[str, str], list[ShardFindings]] = {}
        self._search = LeakSearch()
        self._leaks: list[Leak] = []
        self._audio = SameAudio()

    def add(self, place: ShardPlace, findings: ShardFindings) -> None:
        """Take in one shard; shards of held-out splits come first (`held_out_first`)."""
        dataset, split = place.dataset, place.split
        self._keys.setdefault(dataset, Counter()).update(sample.key for sample in findings.samples)
        self._clip_ids.setdefault(dataset, Counter()).update(sample.clip_id for sample in findings.samples)
        totals = ShardFindings([], [], findings.questions, findings.seconds)
        self._totals.setdefault((dataset, split), []).append(totals)
        for sample in findings.samples:
            self._audio.add(dataset, split, sample.clip_id, sample.audio_sha256)
            if split == TRAIN:
                self._leaks += self._search.leaks(dataset, sample.clip_id, sample.recordings)
            else:
                self._search.hold(dataset, split, sample.recordings)

    def report(self, manifests: dict[str, DatasetManifest], report: LintReport) -> None:
        """Add to `report` what shows now that every shard of `manifests` was added."""
        for dataset, manifest in manifests.items():
            report.problems += _repeated(dataset, "key", self._keys.get(dataset, Counter()))
            report.problems += _repeated(dataset, "clip", self._clip_ids.get(dataset, Counter()))
            for split, entry in manifest.splits.items():
                found = self._totals.get((dataset, split), [])
                report.problems += _total_problems(f"{dataset}: split {split}", entry, found)
        report.problems += leak_lines(self._leaks)
        report.problems += same_audio_lines(self._audio.leaks)
        report.notes += same_audio_lines(self._audio.repeats)


def _repeated(dataset: str, what: str, counts: Counter[str]) -> Iterator[str]:
    return (f"{dataset}: {what} {name} occurs {count} times" for name, count in counts.items() if count > 1)


def _total_problems(where: str, entry: SplitEntry, found: Iterable[ShardFindings]) -> Iterator[str]:
    """Does the manifest count what the side files hold? Says nothing when a side file is unusable: that is reported."""
    if sum(shard.n_samples for shard in entry.shards) != entry.clips:
        yield f"{where} does not have the {entry.clips} clips of the manifest"
    questions, seconds = 0, 0.0
    for findings in found:
        if findings.questions is None or findings.seconds is None:
            return
        questions += findings.questions
        seconds += findings.seconds
    if questions != entry.questions:
        yield f"{where} has {questions} questions, the manifest says {entry.questions}"
    # The manifest rounds to 6 digits.
    if abs(seconds / 3600 - entry.hours) > 1e-6:
        yield f"{where} has {seconds / 3600:.6f} hours, the manifest says {entry.hours}"


def _dataset_folders(shards: Path) -> list[Path]:
    if not shards.is_dir():
        raise ShardError("no such shard folder", where={"folder": shards}, hint="run `gst-data prepare` first")
    folders = sorted(path for path in shards.iterdir() if path.is_dir() and not path.name.startswith("."))
    datasets = [path for path in folders if (path / MANIFEST_NAME).exists() or any(path.glob("*.tar"))]
    if not datasets:
        raise ShardError("no prepared dataset here", where={"folder": shards}, expected=f"<dataset>/{MANIFEST_NAME}")
    return datasets


def _lint_folder(folder: Path, report: LintReport) -> DatasetManifest | None:
    """Check all of a dataset but its shards; returns the manifest when there is one to check shards against."""
    name = folder.name
    report.notes += [
        f"{name}/{path.name}: left behind by a process that is gone; `gst-data prepare` removes it"
        for path in sorted(folder.glob(".*.tmp"))
        if is_stale_temporary(path)
    ]
    if not DATASET_NAME.fullmatch(name):
        report.problems.append(f"{name}: not a dataset name: small ASCII letters, digits and _ only")
    try:
        manifest = read_model(folder / MANIFEST_NAME, DatasetManifest)
    except ShardError as error:
        report.problems.append(f"{name}: not complete: {error.what}")
        return None
    if manifest.dataset != name:
        report.problems.append(f"{name}: the manifest is of dataset {manifest.dataset!r}")
        return None
    if manifest.digest != manifest_digest(manifest.splits):
        report.problems.append(f"{name}: the manifest's digest does not fit its shards")
    report.problems += [f"{name}: unknown split {split!r}" for split in manifest.splits if split not in SPLITS]
    report.problems += [f"{name}: {problem}" for problem in _quarantine_problems(folder, manifest)]
    report.problems += [f"{name}: {problem}" for problem in _wids_problems(folder, manifest)]
    _find_strays(folder, manifest, report)
    return manifest


def _quarantine_problems(folder: Path, manifest: DatasetManifest) -> Iterator[str]:
    """The final states of the manifest against the quarantine file and the shards.

    A clip cut into windows is one clip with state `ok` and several samples.
    """
    n_samples = sum(entry.clips for entry in manifest.splits.values())
    if manifest.states.get("ok", 0) > n_samples:
        yield f"the manifest counts {manifest.states['ok']} clips as ok, its shards hold {n_samples} samples"
    try:
        found = Counter(record["state"] for record in read_quarantine(folder))
    except ShardError as error:
        yield error.what
        return
    for state in sorted((found.keys() | manifest.states.keys()) - {"ok"}):
        expected = manifest.states.get(state, 0)
        if found[state] != expected:
            yield f"the quarantine file has {found[state]} {state} clips, the manifest says {expected}"


def _wids_problems(folder: Path, manifest: DatasetManifest) -> Iterator[str]:
    """The indexes for other readers must list the shards of the manifest, in order."""
    paths = {split: folder / f"{manifest.dataset}-{split}.wids.json" for split in manifest.splits}
    for split, path in paths.items():
        listed = [{"url": shard.file, "nsamples": shard.n_samples} for shard in manifest.splits[split].shards]
        try:
            index = json.loads(path.read_bytes())
            if index["wids_version"] != 1 or index["shardlist"] != listed:
                yield f"the wids index of split {split} does not list the shards of the manifest"
        except FileNotFoundError:
            yield f"no wids index of split {split}"
        except (ValueError, KeyError, TypeError):
            yield f"the wids index of split {split} is damaged"
    for path in sorted(set(folder.glob("*.wids.json")) - set(paths.values())):
        yield f"{path.name}: a wids index of a split that the manifest does not have"


def _find_strays(folder: Path, manifest: DatasetManifest, report: LintReport) -> None:
    """Shards that the manifest does not list: a tar with samples would be read by whoever globs `*.tar`."""
    known = {shard.file for entry in manifest.splits.values() for shard in entry.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in known and _has_samples(path):
            report.problems.append(f"{folder.name}/{path.name}: not in the manifest")
    for path in sorted(folder.glob(f"{manifest.dataset}-*-[0-9]*.json")):
        tar = path.with_suffix(".tar")
        if tar.name not in known and not tar.exists():
            report.notes.append(f"{folder.name}/{path.name}: a side file without a tar")


def _has_samples(tar: Path) -> bool:
    """False for the one tar that may lie beside a manifest unlisted: no clip of it could be used."""
    try:
        return read_side(tar).n_samples > 0
    except ShardError:
        return True
