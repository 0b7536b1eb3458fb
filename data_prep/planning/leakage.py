"""Nothing that is held out for validation or test may be trained on, in whichever corpus it turns up.

Corpora overlap: AudioCaps lies inside AudioSet, which WavCaps and OpenAQA take from; SoundDescs and a part of WavCaps
are the same BBC archive. Clips carry the name of their recording in its public source (`source_keys`), and a training
clip whose recording another clip's validation or test split holds is left out, with that reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from data_prep.planning.leakage_keys import GROUP_KINDS, recording_keys
from data_prep.planning.spool import Spool
from pipeline.errors import ConfigError

HELD_OUT_NAME = "held_out.tsv"
LEAKAGE = "leakage"
HELD_OUT_SPLITS = ("val", "test")

Excluded = Mapping[str, str]


def tokens_of(source_keys: Mapping[str, str], kinds_apart: Collection[str]) -> Iterator[tuple[str, bool]]:
    """(name, whether sharing it is a leak) of a clip's recording: `youtube=abc`.

    Groups (a speaker, a session) hold many recordings: hold-out keeps them whole, but sharing one is a leak only when
    their kind is among `kinds_apart`.
    """
    for kind, value in recording_keys(source_keys):
        yield f"{kind}={value}", True
    for kind in GROUP_KINDS & source_keys.keys():
        yield f"{kind}={source_keys[kind]}", kind in kinds_apart


def read_exclude_lists(given: Sequence[str]) -> Excluded:
    """Name of a recording -> file that lists it, from `kind=FILE` choices; the files have one id a line.

    Raises:
        ConfigError: not of that form, or the file cannot be read.
    """
    excluded: dict[str, str] = {}
    for choice in given:
        kind, equals, name = choice.partition("=")
        if not (kind and equals and name):
            raise ConfigError("an exclude list has no kind", got=choice, expected="--exclude youtube=ids.txt")
        try:
            lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"an exclude list cannot be read: {error}", where={"file": name}) from None
        for line in lines:
            for token, _ in tokens_of({kind: line.strip()} if line.strip() else {}, ()):
                excluded.setdefault(token, Path(name).name)
    return excluded


def enforce(spool: Spool, corpora: Sequence[str], out: Path) -> dict[str, list[str]]:
    """Take held-out recordings out of every training split; returns, by corpus, what was removed and why.

    What earlier runs hold out in `out` counts too.
    """
    spool.hold(_held_elsewhere(out, corpora))
    for split in HELD_OUT_SPLITS:
        spool.hold_split(split)
    notes: dict[str, list[str]] = {}
    for corpus in corpora:
        removed = list(spool.held_clips(corpus, ["train"]))
        spool.refuse(
            ((n, f"its recording ({token}) is held out in {place}") for n, token, place in removed), "blacklisted"
        )
        counts = Counter((place, token.partition("=")[0]) for _, token, place in removed)
        notes[corpus] = [
            f"{LEAKAGE}: {count} train clips left out, as {place} holds the same recording (by {kind})"
            for (place, kind), count in sorted(counts.items())
        ]
    return notes


def held_out_lines(spool: Spool, corpus: str) -> Iterator[str]:
    """What `corpus` holds out, for the plans of other corpora later on."""
    for split in HELD_OUT_SPLITS:
        yield from (f"{split}\t{token}\n" for token in spool.held_tokens(corpus, split))


def _held_elsewhere(out: Path, corpora: Sequence[str]) -> Iterable[tuple[str, str]]:
    for path in sorted(out.glob(f"*/plan/{HELD_OUT_NAME}")):
        dataset = path.parent.parent.name
        if dataset not in corpora:
            for line in path.read_text().splitlines():
                split, _, token = line.partition("\t")
                yield token, f"{dataset} {split}"
