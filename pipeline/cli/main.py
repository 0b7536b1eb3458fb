"""`gst`: the verbs."""

from __future__ import annotations

import typer

from pipeline.cli import model
from pipeline.cli.doctor import doctor
from pipeline.cli.errors import run_guarded
from pipeline.errors import NotBuiltYet

app = typer.Typer(
    help="Grouped sequential training of audio language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(model.app, name="model")
app.command()(doctor)


def _register() -> None:
    # Each verb's module imports what that verb needs; all of them together take seconds to import.
    from pipeline.cli.evaluate import evaluate
    from pipeline.cli.group import group
    from pipeline.cli.plan import plan, validate
    from pipeline.cli.probe import probe
    from pipeline.cli.report import report
    from pipeline.cli.train import train

    for verb in (validate, plan, train, probe, group, report):
        app.command()(verb)
    app.command("eval")(evaluate)


@app.command()
def serve() -> None:
    """The affinity service and its page (not implemented)."""
    raise NotBuiltYet("gst serve")


@app.command()
def export() -> None:
    """Adapter, projector and model card (not implemented)."""
    raise NotBuiltYet("gst export")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench() -> None:
    """Benchmarks against peers and limits (not implemented)."""
    raise NotBuiltYet("gst bench")


def main() -> None:
    _register()
    run_guarded(lambda: app(standalone_mode=False))


if __name__ == "__main__":
    main()
