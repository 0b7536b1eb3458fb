"""`gst-data`: mini corpora, shards from corpora, and checks of shards. Parses and wires; the work is elsewhere."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from data_prep.audio.load import AudioOptions
from data_prep.look.info import info_json, info_table, outcome_table
from data_prep.look.leaks import find_leaks, leak_lines
from data_prep.look.lint import lint as lint_shards
from data_prep.planning.corpora import AUTO, find_corpora
from data_prep.planning.leakage import LEAKAGE, read_exclude_lists
from data_prep.planning.plan import Plan, PlanOptions, load_plans, make_plans
from data_prep.planning.probe import probe as probe_corpus
from data_prep.shards.executors import make_executor
from data_prep.shards.finish import Outcome, Thresholds, raise_failures
from data_prep.shards.prepare import prepare as prepare_corpora
from data_prep.shards.progress import PrepareProgress
from pipeline.data.manifest import MANIFEST_NAME
from pipeline.errors import GstError

app = typer.Typer(help="Prepare audio question-answering corpora as webdataset shards.", no_args_is_help=True)
_FILE_COLUMNS = 160
_PLAN = PlanOptions()
_AUDIO = _PLAN.audio
_LIMITS = Thresholds()


def _table_console() -> Console:
    """Tables in full width when they go to a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS)


def _names(text: str) -> tuple[str, ...]:
    """The names in "a,b"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


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
    root: Annotated[Path, typer.Option(help="folder with the raw corpora")],
    out: Annotated[Path, typer.Option(help="folder for the shards")],
    corpus: Annotated[str, typer.Option(help="auto, jsonl, or the name of one corpus")] = AUTO,
    only: Annotated[str, typer.Option(help="keep these datasets: a,b")] = "",
    option: Annotated[list[str] | None, typer.Option(help="a corpus' own choice: corpus.name=value")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="recordings to leave out: kind=FILE")] = None,
    kinds_apart: Annotated[str, typer.Option(help="groups that splits must not share either: speaker,...")] = "",
    probe: Annotated[bool, typer.Option("--probe", help="say what is found, write nothing")] = False,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="write the plans, no shards")] = False,
    reuse_plan: Annotated[bool, typer.Option("--reuse-plan", help="trust the plans on disk")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="check hashes of the shards that are there")] = False,
    executor: Annotated[str, typer.Option(help="local, array or ray")] = "local",
    jobs: Annotated[int, typer.Option(help="processes")] = 2,
    task_index: Annotated[int | None, typer.Option(help="array: this task, from 0; default: SLURM's")] = None,
    num_tasks: Annotated[int | None, typer.Option(help="array: all tasks; default: SLURM's")] = None,
    ray_address: Annotated[str | None, typer.Option(help="ray: the cluster; default: this machine")] = None,
    limit: Annotated[int | None, typer.Option(help="at most so many clips a dataset and split")] = None,
    seed: Annotated[int, typer.Option(help="order and held-out splits")] = _PLAN.seed,
    val_fraction: Annotated[float, typer.Option(help="held out when there is no val")] = _PLAN.val_fraction,
    test_fraction: Annotated[float, typer.Option(help="the same for test")] = _PLAN.test_fraction,
    max_clips_per_shard: Annotated[int, typer.Option()] = _PLAN.max_clips_per_shard,
    max_shard_bytes: Annotated[int, typer.Option(help="estimated before decoding")] = _PLAN.max_shard_bytes,
    long_clips: Annotated[str, typer.Option(help="first, center, split, keep or refuse")] = _AUDIO.long_clips,
    window_s: Annotated[float, typer.Option(help="the most a model hears; longer clips are cut")] = _AUDIO.window_s,
    max_windows: Annotated[int, typer.Option(help="split: the most windows of one clip")] = _AUDIO.max_windows,
    channels: Annotated[str, typer.Option(help="mean of the channels, or the first")] = _AUDIO.channels,
    min_duration_s: Annotated[float, typer.Option(help="shorter: too_short")] = _AUDIO.min_duration_s,
    max_duration_s: Annotated[float, typer.Option(help="keep: longer is too_long")] = _AUDIO.max_duration_s,
    silence_peak: Annotated[float, typer.Option(help="no sample above: silent")] = _AUDIO.silence_peak,
    max_bad_fraction: Annotated[float, typer.Option(help="damaged clips allowed")] = _LIMITS.max_bad_fraction,
    max_missing_fraction: Annotated[float | None, typer.Option(help="default: the corpus' own, or 0.10")] = None,
) -> None:
    """Turn raw corpora into shards. Run it again after a crash or a change: only what lacks is written."""
    chosen = {**locals(), "kinds_apart": _names(kinds_apart)}
    options = PlanOptions(audio=AudioOptions(**_fields_of(AudioOptions, chosen)), **_fields_of(PlanOptions, chosen))
    runner = make_executor(executor, jobs, task_index, num_tasks, ray_address)
    corpora = find_corpora(root, corpus, _names(only), option or ())
    if probe:
        typer.echo("\n".join(line for found in corpora for line in probe_corpus(*found)))
        return
    with PrepareProgress(Console(stderr=True)) as progress:
        excluded = read_exclude_lists(exclude or ())
        if reuse_plan:
            plans = load_plans(corpora, out, options, excluded=excluded)
        else:
            plans = make_plans(corpora, out, options, excluded=excluded, on_read=progress.reading)
        progress.planned(plans, runner.share([task for plan in plans for task in plan.shards]))
        if plan_only:
            return
        limits = Thresholds(max_bad_fraction, max_missing_fraction)
        outcomes = prepare_corpora(plans, runner, thresholds=limits, verify=verify, on_shard=progress.shard_done)
    _report(plans, outcomes, out)
    raise_failures(outcomes)


def _fields_of(kind: type, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that are fields of a dataclass."""
    return {field.name: chosen[field.name] for field in dataclasses.fields(kind) if field.name in chosen}


def _report(plans: Sequence[Plan], outcomes: Sequence[Outcome], out: Path) -> None:
    """The table of what was finished, what leakage took out of train, and what other processes still write."""
    _table_console().print(outcome_table(outcomes))
    finished = {outcome.manifest.dataset for outcome in outcomes}
    for plan in plans:
        for note in plan.record.notes:
            if note.startswith(LEAKAGE):
                typer.echo(f"{plan.dataset}: {note}")
        if plan.dataset not in finished:
            typer.echo(f"{plan.dataset}: other array tasks still write its shards")
    prepared = {path.parent.name for path in out.glob(f"*/{MANIFEST_NAME}")}
    if prepared - {plan.dataset for plan in plans}:
        for line in leak_lines(find_leaks(out)):
            typer.echo(f"warning: {line}; prepare the first of these datasets again, or all together")


@app.command()
def unpack(
    archives: Annotated[list[Path], typer.Argument(help="archives, or folders that hold some")],
    out: Annotated[Path, typer.Option(help="folder to unpack to, one folder an archive")],
) -> None:
    """Unpack downloads safely: nothing outside --out, nothing half unpacked; run it again after a crash."""
    from data_prep.archives.unpack import find_archives
    from data_prep.archives.unpack import unpack as unpack_archives

    found = [archive for path in archives for archive in (find_archives(path) if path.is_dir() else [path])]
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("unpacking", total=None)
        for done in unpack_archives(
            found,
            out,
            lambda archive, n_files, n_bytes: bar.update(
                task, description=f"{archive.name}: {n_files} files, {n_bytes / 2**20:.0f} MiB"
            ),
        ):
            how = "already unpacked" if done.was_done else f"{done.n_files} files, {done.n_bytes / 2**20:.1f} MiB"
            typer.echo(f"{done.archive.name} -> {done.folder}: {how}")


@app.command()
def lint(
    shards: Annotated[Path, typer.Argument(help="folder of prepared shards")],
    decode: Annotated[bool, typer.Option("--decode", help="decode every clip too")] = False,
    jobs: Annotated[int, typer.Option(help="processes for --decode", min=1)] = 2,
) -> None:
    """Check sizes, hashes, member order, JSON, keys and leaks between datasets; exit code 1 when something is wrong."""
    report = lint_shards(shards, decode=decode, jobs=jobs)
    for line in (*(f"note: {note}" for note in report.notes), *report.problems):
        typer.echo(line)
    typer.echo(f"{len(report.problems)} problems" if report.problems else "no problems")
    if report.problems:
        raise typer.Exit(1)


@app.command()
def info(
    shards: Annotated[Path, typer.Argument(help="folder of prepared shards")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Clips, hours, questions, kinds of answers and licences, per dataset and split."""
    if as_json:
        typer.echo(json.dumps(info_json(shards), indent=1))
    else:
        _table_console().print(info_table(shards))


@app.command()
def preview(
    shards: Annotated[Path, typer.Argument(help="folder of prepared shards")],
    out: Annotated[Path, typer.Option(help="the page, one HTML file")],
    clips: Annotated[int, typer.Option(help="clips a dataset and split", min=1)] = 4,
    only: Annotated[str, typer.Option(help="these datasets: a,b")] = "",
    seed: Annotated[int, typer.Option(help="another seed shows other clips")] = 14,
) -> None:
    """A page with players and questions of some clips, to listen before training."""
    from data_prep.look.preview import write_preview

    typer.echo(write_preview(shards, out, clips_per_split=clips, seed=seed, datasets=_names(only)))


def main() -> None:
    """Entry point: an error of the user's input is printed without a traceback."""
    try:
        app()
    except GstError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
