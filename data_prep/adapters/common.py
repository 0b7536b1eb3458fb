"""What the corpus adapters share: finding a corpus, reading its text, building its clips."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import unicodedata
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ValidationError

from data_prep.adapters.audio_index import audio_files, is_litter
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from pipeline.errors import ConfigError, CorpusError, did_you_mean
from pipeline.types import Qa

MAX_DEPTH = 3
# A folder with more subfolders has one for each speaker or clip: audio, in which no annotation file is looked for.
MAX_SUBFOLDERS = 200


class CorpusAdapter:
    """Base of the adapters: finds the corpus by its `layouts`, paths of a telling file relative to its own folder.

    `max_missing_fraction` is the share of clips that known copies of the corpus lack; None where the usual limit fits.
    """

    name: str
    domain: str
    licence: str
    version: int = 1
    max_missing_fraction: float | None = None
    layouts: tuple[str, ...] = ()
    options_type: ClassVar[type[AdapterOptions]] = AdapterOptions

    def __init__(self, options: AdapterOptions | None = None) -> None:
        self.options = options or self.options_type()

    def with_options(self, values: Mapping[str, str]) -> Self:
        """The same adapter with other choices; ConfigError for an unknown name or a value that does not fit."""
        try:
            return type(self)(self.options_type.model_validate(dict(values)))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            known = list(self.options_type.model_fields)
            raise ConfigError(
                f"a corpus option is wrong: {first['msg']}",
                where={"option": f"{self.name}.{name}"},
                got=values.get(name),
                expected=" ".join(known) or f"{self.name} has no options",
                hint=did_you_mean(name, known) if name not in known else None,
            ) from None

    def find(self, root: Path) -> Path | None:
        """The shallowest folder at or below `root` (depth <= 3) that holds one of the layouts."""
        return next((folder for folder in folders(root) if self.signature(folder) is not None), None)

    def signature(self, folder: Path) -> Path | None:
        """The telling file inside the corpus folder `folder`, first matching layout first, or None."""
        for layout in self.layouts:
            found = sorted(folder.glob(layout)) if "*" in layout else [folder / layout]
            for path in found:
                if path.is_file() and not is_litter(path.name) and self.accepts(path):
                    return path
        return None

    def accepts(self, path: Path) -> bool:
        """Whether a file with a telling name really is this corpus'; file names such as `train.csv` are not enough."""
        return True

    def annotation(self, root: Path) -> Path:
        """`signature`, as an error when it is not there."""
        path = self.signature(root)
        if path is None:
            raise CorpusError(
                f"this folder is not a {self.name} corpus",
                where={"corpus": self.name, "folder": root},
                expected=" or ".join(self.layouts),
                hint="pass the folder that the corpus was unpacked to",
            )
        return path


def folders(root: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """`root` and the folders below it, breadth first and sorted, down to `depth`; not one for each speaker or clip."""
    level = [root] if root.is_dir() else []
    for step in range(depth + 1):
        yield from level
        if step < depth:
            level = [child for folder in level for child in _subfolders(folder)]


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not is_litter(entry.name) and entry.is_dir())
    return [folder / name for name in names] if len(names) <= MAX_SUBFOLDERS else []


def folders_named(root: Path, *names: str) -> list[Path]:
    """All folders at most three deep below `root` whose name is one of `names`."""
    return [folder for folder in folders(root) if folder.name in names]


def file_below(root: Path, name: str) -> Path | None:
    """The shallowest file called `name` at most three folders deep below `root`."""
    return next((folder / name for folder in folders(root) if (folder / name).is_file()), None)


def with_audio(folder: Path, root: Path, *names: str) -> Path:
    """The corpus folder of annotations that may lie in a folder of their own beside the audio.

    `folder` where it has audio below it or none is found, else the nearest of the two folders above it (not above
    `root`) that holds one of `names` (patterns too).
    """
    if next(audio_files(folder), None) is not None:
        return folder
    above = [place for place in (folder, *folder.parents) if place == root or root in place.parents]
    return next((place for place in above[:3] if any(any(place.glob(name)) for name in names)), folder)


def files_in(files: Iterable[str], root: Path, *names: str) -> list[str]:
    """Those of `files`, all below `root`, that lie in a folder called one of `names` in any case, also in archives."""
    wanted = {name.lower() for name in names}
    start = len(str(root)) + 1
    return [path for path in files if not wanted.isdisjoint(path[start:].lower().split("/")[:-1])]


def require_file(path: Path | None, corpus: str, root: Path, name: str) -> Path:
    """`path` when it is a file; CorpusError naming what was looked for and where when it is None or not there."""
    if path is None or not path.is_file():
        raise CorpusError(
            "an annotation file of the corpus is absent",
            where={"corpus": corpus, "looked for": name, "below": root},
            hint="download this file again; the corpus is incomplete without it",
        )
    return path


def split_names(value: object) -> object:
    """ "a, b" -> ["a", "b"]: options come from the command line as text."""
    return [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value


# An option that takes a list of names.
Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]


def note_count(found: Findings, what: str, expected: int, n: int) -> None:
    """Note a count that differs from the published one."""
    if n != expected:
        found.note(f"{what}: expected {expected}, found {n}")


def read_csv(
    path: Path, columns: Sequence[str], *, encoding: str = "utf-8-sig", delimiter: str = ","
) -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header, as dictionaries; fields that a short row lacks are "".

    Raises:
        CorpusError: the file is not text in `encoding`, is no CSV, or lacks one of `columns`.
    """
    try:
        # newline="" lets the csv module treat CRLF, and line ends inside quotes, itself.
        with open(path, encoding=encoding, newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter, restval="")
            found = [(name or "").strip() for name in rows.fieldnames or []]
            rows.fieldnames = found
            missing = [name for name in columns if name not in found]
            if missing:
                raise CorpusError(
                    "an annotation file lacks a column",
                    where={"file": path, "column": ", ".join(missing)},
                    got=", ".join(found) or "(an empty file)",
                    expected=", ".join(columns),
                    hint="check that the file is of the release that the adapter documents",
                )
            yield from rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(
            f"an annotation file cannot be read: {error}", where={"file": path}, expected=f"CSV text in {encoding}"
        ) from None


def csv_header(path: Path) -> list[str]:
    """Column names of a CSV file; empty when it is no readable text, so that a probe never fails."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except csv.Error:
        return []


def read_json(path: Path) -> Any:
    """A whole JSON file; for files of gigabytes see `jsonstream`.

    Raises:
        CorpusError: the file is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise CorpusError(
            f"an annotation file is not valid JSON: {error}",
            where={"file": path},
            hint="download it again; a cut download looks like this",
        ) from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line, which may be packed with gzip; blank lines are passed over.

    Raises:
        CorpusError: a line is no JSON object, or the file ends inside its packing.
    """
    number = 1
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for content in file:
                text = content.removeprefix(b"\xef\xbb\xbf").strip()
                value = json.loads(text) if text else None
                if text and not isinstance(value, dict):
                    raise ValueError(f"a {type(value).__name__} instead of an object")
                if value is not None:
                    yield value
                number += 1
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise CorpusError(
            f"an annotation file is not valid JSON lines: {error}",
            where={"file": path, "line": number},
            expected="one JSON object a line",
            hint="download it again; a cut download looks like this",
        ) from None


def clean(text: object) -> str:
    """Annotation text for a question or answer: NFC, runs of white space as one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", str(text)).split()) if text is not None else ""


def stable_hash(text: str) -> int:
    """The same number for the same text in every process and version; Python's own `hash` is salted."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split_groups(groups: Collection[str], val_fraction: float = 0.1, test_fraction: float = 0.1) -> dict[str, str]:
    """Deal whole groups (locations, tracks) to train, val and test; depends on nothing but the names.

    At least one group goes to val and to test when there are three or more, and all to train otherwise.
    """
    ranked = sorted(set(groups), key=stable_hash)
    if len(ranked) < 3:
        return dict.fromkeys(ranked, "train")
    n_test = max(1, round(test_fraction * len(ranked)))
    n_val = max(1, round(val_fraction * len(ranked)))
    return {
        group: "test" if rank < n_test else "val" if rank < n_test + n_val else "train"
        for rank, group in enumerate(ranked)
    }


def source_clip(
    id: str,
    split: str,
    qa: Iterable[Qa],
    audio: Path | None,
    *,
    looked_for: str,
    problem: str = "",
    blacklisted: str = "",
    **fields: Any,
) -> SourceClip:
    """A clip in its right state: `missing` without audio, `bad_annotation` with a `problem` or without questions.

    `blacklisted` says why the clip must not be used at all, whatever else is wrong with it.
    """
    questions = tuple(qa)
    state, reason = "ok", ""
    if blacklisted:
        state, reason = "blacklisted", blacklisted
    elif problem or not questions:
        state, reason = "bad_annotation", problem or "the annotation has no usable answer"
    elif audio is None:
        state, reason = "missing", f"no audio file named {looked_for}"
    return SourceClip(id=id, split=split, qa=questions, audio=audio, state=state, reason=reason, **fields)
