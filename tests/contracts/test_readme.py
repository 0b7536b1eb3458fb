"""Commands and options that the README and run.sh name exist."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from pipeline.config.load import find_recipe
from tests.launching import run_command

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL))
COMMANDS = [shlex.split(line, comments=True) for line in BLOCKS.splitlines() if line.startswith(("gst ", "gst-data "))]


def verbs_and_options() -> list[tuple[str, tuple[str, ...]]]:
    found: dict[str, set[str]] = {}
    for words in COMMANDS:
        depth = 3 if words[1] in ("model", "bench") else 2
        options = {word for word in words[depth:] if word.startswith("--")}
        found.setdefault(" ".join(words[:depth]), set()).update(options)
    return [(verb, tuple(sorted(options))) for verb, options in sorted(found.items())]


SAY = """
import json, sys
from typer.testing import CliRunner
from data_prep.cli import app as preparing
from pipeline.cli.main import app, register

register([])
said = {}
for verb in sys.argv[1:]:
    name, *words = verb.split()
    done = CliRunner().invoke(app if name == "gst" else preparing, [*words, "--help"])
    said[verb] = done.output if done.exit_code == 0 else ""
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    """What `--help` says of every verb; in one process, because to import all that they need takes seconds."""
    benchmarks = [verb for verb, _ in verbs_and_options() if verb.startswith("gst bench ")]  # processes of their own
    verbs = [verb for verb, _ in verbs_and_options() if verb not in benchmarks]
    done = run_command(sys.executable, "-c", SAY, *verbs)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, str] = json.loads(done.stdout)
    return said | {verb: run_command(*verb.split(), "--help").stdout for verb in benchmarks}


@pytest.mark.parametrize(("verb", "options"), verbs_and_options())
def test_every_command_and_option_exists(help_of: dict[str, str], verb: str, options: tuple[str, ...]) -> None:
    assert help_of[verb]
    for option in options:
        assert option in help_of[verb]


def test_every_recipe_named_is_shipped() -> None:
    named = {words[words.index("-c") + 1] for words in COMMANDS if "-c" in words}
    named |= set(re.findall(r"`(mini-[\w-]+)`", README))
    assert named
    for name in named - {"RECIPE", "RECIPE.yaml"}:
        assert find_recipe(name)


def test_every_file_and_folder_named_is_there() -> None:
    named = re.findall(r"(?:ds_configs|pipeline|tests)/[\w./-]*\w", README)
    for name in (*named, "CONTRIBUTING.md", "pipeline/recipes", "ds_configs", "run.sh", "LICENSE", ".ci/run"):
        assert (ROOT / name).exists()
