"""`gst`: the verbs."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from pipeline.cli.errors import run_guarded

# verb -> module and function. A verb's module imports torch, transformers or matplotlib as it needs: seconds that no
# other verb should pay.
VERBS = {
    "doctor": ("doctor", "doctor"),
    "validate": ("validate", "validate"),
    "plan": ("plan", "plan"),
    "model": ("model", "app"),
    "probe": ("probe", "probe"),
    "transfer": ("transfer", "transfer"),
    "group": ("group", "group"),
    "agreement": ("agreement", "agreement"),
    "serve": ("serve", "serve"),
    "clusters": ("clusters", "clusters"),
    "features": ("features", "features"),
    "train": ("train", "train"),
    "eval": ("evaluate", "evaluate"),
    "export": ("export", "export"),
    "generate": ("generate", "generate"),
    "tables": ("tables", "tables"),
    "report": ("report", "report"),
    "sync": ("sync", "sync"),
    "bench": ("bench", "bench"),
}
# What follows the name of a benchmark is that benchmark's.
SETTINGS = {"bench": {"allow_extra_args": True, "allow_interspersed_args": False}}

app = typer.Typer(
    help="Grouped sequential training of audio language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _verbs() -> None:
    """Keeps a verb a verb where it is the only one registered."""


def register(words: list[str]) -> None:
    """Add the verb that `words` calls; all of them when it calls none (help, a mistyped verb)."""
    called = next((word for word in words if not word.startswith("-")), "")
    for verb in [called] if called in VERBS else VERBS:
        module, name = VERBS[verb]
        found = getattr(import_module(f"pipeline.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=verb)
        else:
            app.command(verb, context_settings=SETTINGS.get(verb))(found)


def main() -> None:
    def command() -> None:
        register(sys.argv[1:])
        app()

    run_guarded(command)


if __name__ == "__main__":
    main()
