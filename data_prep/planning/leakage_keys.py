"""Which source keys name a recording, and how two spellings of one name are made equal.

A clip's `source_keys` say where it comes from (`pipeline.types.Clip`). Most kinds name one recording: a clip of the
same recording in train and in val or test is a leak, in one corpus or across two. The kinds of `GROUP_KINDS` name
something that many recordings share; they serve to hold whole groups out of train, and equality is no leak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

GROUP_KINDS: frozenset[str] = frozenset({"speaker", "user", "session", "location", "dialogue"})
_CASELESS_KINDS = frozenset({"bbc"})


def recording_keys(source_keys: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(kind, value) of every key that names a recording, normalised so that equality means the same recording.

    Ids of the BBC archive are written in either case, so they are lower-cased; YouTube ids differ by case alone and
    stay as they are. Blank values are left out.
    """
    for kind, value in source_keys.items():
        kind, value = kind.strip().lower(), value.strip()
        if value and kind not in GROUP_KINDS:
            yield kind, value.lower() if kind in _CASELESS_KINDS else value
