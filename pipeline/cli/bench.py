"""`gst bench`: runs the repository's benchmarks, which compare with peers and with the machine's limits."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ConfigError, nearest

CHECKOUT = Path(__file__).resolve().parents[2]


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="without a name: list them")] = None,
) -> None:
    """Benchmarks against peers and limits: gst bench NAME [--quick] [its own options]; NAME --help lists these."""
    known = find_benchmarks(CHECKOUT)
    if name is None:
        width = max(map(len, known))
        typer.echo("\n".join(f"{known_name:{width}}  {line}" for known_name, line in known.items()))
        return
    if name not in known:
        guess = nearest(name, known)
        raise ConfigError(
            "no such benchmark",
            got=name,
            expected=" ".join(known),
            hint=f"did you mean {guess}?" if guess else "gst bench lists them",
        )
    # A process of its own: benchmarks belong to the tests, which nothing in this package imports.
    module = f"tests.bench.{name.replace('-', '_')}"
    raise typer.Exit(
        subprocess.run([sys.executable, "-m", module, *context.args], cwd=CHECKOUT, check=False).returncode
    )


def find_benchmarks(checkout: Path) -> dict[str, str]:
    """Name -> what it measures: the modules of `tests/bench` that have a `main`.

    Raises:
        ConfigError: the package does not lie in a checkout of the repository.
    """
    folder = checkout / "tests" / "bench"
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    if not found:
        raise ConfigError(
            "benchmarks live in the repository, and this is an installed copy without it",
            where={"folder": folder},
            hint="clone the repository and install it there: pip install -e '.[bench]'",
        )
    return found
