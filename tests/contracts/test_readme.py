"""Commands and options that the README and run.sh name exist."""

from __future__ import annotations

import re
import shlex
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


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "options"), verbs_and_options())
def test_every_command_and_option_exists(verb: str, options: tuple[str, ...]) -> None:
    done = run_command(*verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    for option in options:
        assert option in done.stdout


def test_every_recipe_named_is_shipped() -> None:
    named = {words[words.index("-c") + 1] for words in COMMANDS if "-c" in words}
    named |= set(re.findall(r"`(mini-[\w-]+)`", README))
    assert named
    for name in named - {"RECIPE", "RECIPE.yaml"}:
        assert find_recipe(name)


def test_every_file_and_folder_named_is_there() -> None:
    for name in ("CONTRIBUTING.md", "pipeline/recipes", "ds_configs", "run.sh", "LICENSE", ".ci/run"):
        assert (ROOT / name).exists()
