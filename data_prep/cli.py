"""`gst-data`: mini corpora, shards from corpora, and checks of shards. Parses and wires; the work is elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from data_prep.audio import AudioOptions
from data_prep.finish import Thresholds, raise_failures
from data_prep.info import info_table, outcome_table
from data_prep.lint import lint as lint_shards
from data_prep.plan import PlanOptions
from data_prep.prepare import AUTO, find_corpora
from data_prep.prepare import prepare as prepare_corpora
from data_prep.progress import PrepareProgress
from pipeline.errors import GstError, NotBuiltYet

app = typer.Typer(help="Prepare audio question-answering corpora as webdataset shards.", no_args_is_help=True)
_FILE_COLUMNS = 160
_PLAN = PlanOptions()
_LIMITS = Thresholds()


def _table_console() -> Console:
    """Tables in full width when they go to a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS)


@app.command()
def mini(
    out: Annotated[Path, typer.Option(help="folder for the corpora")],
    seed: Annotated[int, typer.Option(help="another seed gives other clips")] = 14,
    jobs: Annotated[int, typer.Option(help="processes", min=1)] = 2,
    alignment: Annotated[bool, typer.Option("--alignment", help="the broad corpus of the alignment stage")] = False,
) -> None:
    """Write fourteen miniature corpora in the public layout of the real ones."""
    from data_prep.mini import generate

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("mini corpora", total=None)
        generate(
            out,
            seed=seed,
            jobs=jobs,
            alignment=alignment,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


@app.command()
def prepare(
    corpora: Annotated[Path, typer.Option(help="folder with the raw corpora")],
    out: Annotated[Path, typer.Option(help="folder for the shards")],
    adapter: Annotated[str, typer.Option(help="auto, jsonl, or the name of one corpus")] = AUTO,
    only: Annotated[str, typer.Option(help="keep these datasets: a,b")] = "",
    jobs: Annotated[int, typer.Option(help="processes")] = 2,
    executor: Annotated[str, typer.Option(help="local, array or ray")] = "local",
    limit: Annotated[int | None, typer.Option(help="at most so many clips a dataset and split")] = None,
    seed: Annotated[int, typer.Option(help="order and held-out splits")] = _PLAN.seed,
    val_fraction: Annotated[float, typer.Option(help="held out of train when there is no val")] = _PLAN.val_fraction,
    test_fraction: Annotated[float, typer.Option(help="the same for test")] = _PLAN.test_fraction,
    max_clips_per_shard: Annotated[int, typer.Option()] = _PLAN.max_clips_per_shard,
    max_shard_bytes: Annotated[int, typer.Option(help="estimated before decoding")] = _PLAN.max_shard_bytes,
    min_duration_s: Annotated[float, typer.Option(help="shorter: too_short")] = _PLAN.audio.min_duration_s,
    max_duration_s: Annotated[float, typer.Option(help="longer: too_long")] = _PLAN.audio.max_duration_s,
    silence_peak: Annotated[float, typer.Option(help="no sample above: silent")] = _PLAN.audio.silence_peak,
    max_bad_fraction: Annotated[float, typer.Option(help="damaged clips allowed")] = _LIMITS.max_bad_fraction,
    max_missing_fraction: Annotated[
        float | None, typer.Option(help="missing clips allowed; default: the corpus' own, or 0.10")
    ] = None,
) -> None:
    """Turn raw corpora into shards. Run it again after a crash or a change: only what lacks is written."""
    options = PlanOptions(
        seed=seed,
        max_clips_per_shard=max_clips_per_shard,
        max_shard_bytes=max_shard_bytes,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        limit=limit,
        audio=AudioOptions(min_duration_s=min_duration_s, max_duration_s=max_duration_s, silence_peak=silence_peak),
    )
    found = find_corpora(corpora, adapter, [name.strip() for name in only.split(",") if name.strip()])
    with PrepareProgress(Console(stderr=True)) as progress:
        outcomes = prepare_corpora(
            found,
            out,
            jobs=jobs,
            options=options,
            thresholds=Thresholds(max_bad_fraction, max_missing_fraction),
            executor=executor,
            on_plan=progress.planned,
            on_shard=progress.shard_done,
        )
    _table_console().print(outcome_table(outcomes))
    raise_failures(outcomes)


@app.command()
def lint(
    shards: Annotated[Path, typer.Argument(help="folder of prepared shards")],
    decode: Annotated[bool, typer.Option("--decode", help="decode every clip too")] = False,
) -> None:
    """Check sizes, hashes, member order, JSON and keys; exit code 1 when something is wrong."""
    problems = lint_shards(shards, decode=decode)
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{len(problems)} problems" if problems else "no problems")
    if problems:
        raise typer.Exit(1)


@app.command()
def info(shards: Annotated[Path, typer.Argument(help="folder of prepared shards")]) -> None:
    """Clips, hours, questions, kinds of answers and licences, per dataset and split."""
    _table_console().print(info_table(shards))


@app.command()
def preview(shards: Annotated[Path, typer.Argument(help="folder of prepared shards")]) -> None:
    """A page with players and questions (not built yet)."""
    raise NotBuiltYet("gst-data preview", hint="`gst-data info` prints what the shards hold")


def main() -> None:
    """Entry point: an error of the user's input is printed without a traceback."""
    try:
        app()
    except GstError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
