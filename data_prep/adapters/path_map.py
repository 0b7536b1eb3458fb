"""A user's own table of where audio lies: patterns of the paths in an annotation file -> folders of this machine."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.errors import ConfigError, GstError

FORM = "YAML lines `pattern: folder`, or a CSV file with the two columns pattern,folder"
_HEADERS = {"pattern", "regex"}


@dataclass(frozen=True)
class PathRule:
    """Paths whose beginning matches `pattern` lie in `folder`."""

    pattern: re.Pattern[str]
    folder: Path


class PathMap:
    """Ordered rules; the first that matches the beginning of a path counts."""

    def __init__(self, rules: tuple[PathRule, ...] = ()) -> None:
        self.rules = rules

    @classmethod
    def read(cls, file: Path) -> PathMap:
        """The rules of a YAML or CSV file; folders are relative to the file.

        Raises:
            ConfigError: no such file, another form, a broken pattern or a folder that is not there; names the line.
        """
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"a path map cannot be read: {error}", where={"file": file}, expected=FORM) from None
        pairs = _csv_pairs(file, text) if file.suffix.lower() == ".csv" else _yaml_pairs(file, text)
        return cls(tuple(_rule(file, *pair) for pair in pairs))

    def find(self, path: str) -> tuple[int, str] | None:
        """(number of the rule, rest of the path below its folder) of the first rule that matches, or None."""
        for number, rule in enumerate(self.rules):
            match = rule.pattern.match(path)
            if match is not None:
                return number, path[match.end() :].lstrip("/")
        return None


_Pair = tuple[int, str, str]


def _rule(file: Path, line: int, pattern: str, folder: str) -> PathRule:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise _error(file, line, f"a pattern of the path map is wrong: {error}", pattern) from None
    place = (file.parent / Path(folder).expanduser()).absolute()
    if not place.is_dir():
        raise _error(file, line, "a folder of the path map is not there", place)
    return PathRule(compiled, place)


def _csv_pairs(file: Path, text: str) -> list[_Pair]:
    rows = csv.reader(text.splitlines())
    pairs: list[_Pair] = []
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells) or (not pairs and cells[0].lower() in _HEADERS):
            continue
        if len(cells) != 2 or not all(cells):
            raise _error(file, rows.line_num, "a line of the path map has another form", row)
        pairs.append((rows.line_num, cells[0], cells[1]))
    return pairs


def _yaml_pairs(file: Path, text: str) -> list[_Pair]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"a path map is not valid YAML: {getattr(error, 'problem', None) or error}"
        raise _error(file, mark.line + 1 if mark else 1, what, None) from None
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise _error(file, node.start_mark.line + 1, "a path map has another form", node.id)
    pairs: list[_Pair] = []
    for key, value in node.value:
        if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode) and key.value and value.value):
            raise _error(file, key.start_mark.line + 1, "a line of the path map has another form", value.id)
        pairs.append((key.start_mark.line + 1, key.value, value.value))
    return pairs


def _error(file: Path, line: int, what: str, got: object) -> GstError:
    return ConfigError(
        what, where={"file": file, "line": line}, got=got, expected=FORM, hint="^/data/audioset/: /my/audioset"
    )
