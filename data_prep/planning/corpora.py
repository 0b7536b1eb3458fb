"""Which corpora a folder holds, and what the user chose for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.adapters.base import Adapter
from data_prep.adapters.jsonl import METADATA_NAME, JsonlCorpus
from data_prep.planning.plan import Corpus
from pipeline.errors import ConfigError, CorpusError, did_you_mean

AUTO = "auto"
JSONL = "jsonl"


def find_corpora(
    root: Path, adapter_name: str = AUTO, only: Sequence[str] = (), options: Sequence[str] = ()
) -> list[Corpus]:
    """The corpora at or below `root`, each with its adapter, in name order.

    Args:
        adapter_name: `auto` asks every adapter; `jsonl` takes every `metadata.jsonl`; else one adapter's name.
        only: keep these datasets.
        options: `corpus.name=value` choices for the adapters.

    Raises:
        CorpusError: `root` is missing, or nothing was found in it.
        ConfigError: no such adapter, a name in `only` that was not found, or an option that no adapter has.
    """
    if not root.is_dir():
        raise CorpusError("no such corpora folder", where={"folder": root}, hint="give an existing folder: --root")
    if adapter_name == AUTO:
        found = _find_known(root)
    elif adapter_name == JSONL:
        found = list(JsonlCorpus().discover(root))
    else:
        found = _find_one(root, adapter_name)
    if not found:
        from data_prep.archives.unpack import find_archives

        archives = find_archives(root)
        hint = "give the folder that holds the corpora's own folders, up to three levels above their files"
        if archives:
            hint = f"unpack {archives[0].name} first: gst-data unpack {root}; or {hint}"
        raise CorpusError("no corpus found", where={"folder": root}, expected=_looked_for(adapter_name), hint=hint)
    return _with_options(_select(sorted(found, key=lambda corpus: corpus[0].name), only), options)


def _with_options(found: list[Corpus], given: Sequence[str]) -> list[Corpus]:
    options = _parse_options(given)
    names = [adapter.name for adapter, _ in found]
    for name in options:
        if name not in names:
            raise ConfigError(
                "an option is for a corpus that is not there",
                where={"option": name},
                expected=" ".join(names),
                hint=did_you_mean(name, names),
            )
    return [(adapter.with_options(options.get(adapter.name, {})), folder) for adapter, folder in found]


def _parse_options(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """`corpus.name=value` choices by corpus; ConfigError for another form."""
    options: dict[str, dict[str, str]] = {}
    for choice in given:
        target, equals, value = choice.partition("=")
        corpus, dot, name = target.partition(".")
        if not (equals and dot and corpus and name):
            raise ConfigError("a corpus option has another form", got=choice, expected="--option corpus.name=value")
        options.setdefault(corpus, {})[name] = value
    return options


def _registry() -> dict[str, Adapter]:
    # Imported on use: adapters may need readers (YAML, parquet ...) that the other verbs do not.
    from data_prep.adapters import ADAPTERS

    return {name: adapter for name, adapter in ADAPTERS.items() if name != JSONL}


def _find_known(root: Path) -> list[Corpus]:
    """What every adapter finds, and the generic datasets outside those corpora's folders."""
    located = [(adapter, adapter.find(root)) for adapter in _registry().values()]
    found = [(adapter, folder) for adapter, folder in located if folder is not None]
    generic = [
        (corpus, folder)
        for corpus, folder in JsonlCorpus().discover(root, strict=False)
        if not any(folder.is_relative_to(known) for _, known in found)
    ]
    return [*found, *generic]


def _find_one(root: Path, name: str) -> list[Corpus]:
    known = _registry()
    if name not in known:
        names = [AUTO, JSONL, *sorted(known)]
        raise ConfigError(
            "no such adapter",
            where={"option": "corpus"},
            got=name,
            expected=" ".join(names),
            hint=did_you_mean(name, names),
        )
    folder = known[name].find(root)
    return [] if folder is None else [(known[name], folder)]


def _looked_for(adapter_name: str) -> str:
    if adapter_name == JSONL:
        return f"**/{METADATA_NAME}"
    if adapter_name == AUTO:
        return f"one of {' '.join(sorted(_registry()))}, or **/{METADATA_NAME}"
    return f"the layout of {adapter_name}"


def _select(found: list[Corpus], only: Sequence[str]) -> list[Corpus]:
    names = [adapter.name for adapter, _ in found]
    for name in only:
        if name not in names:
            raise ConfigError(
                "no such dataset among the corpora that were found",
                where={"option": "only"},
                got=name,
                expected=" ".join(names),
                hint=did_you_mean(name, names),
            )
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise CorpusError("two corpora have the same dataset name", got=" ".join(doubled))
    return [corpus for corpus in found if not only or corpus[0].name in only]
