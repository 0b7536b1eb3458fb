"""Recipes from YAML, with `extends:` and `a.b=c` overrides; every mistake names its key."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.schedule import REGIME_ALIASES, REGIMES
from pipeline.config.schema import ModelConfig, Recipe
from pipeline.errors import ConfigError, nearest

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
ARMS = RECIPES / "arms"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (a path, or the name of one in `pipeline/recipes/`) and apply overrides in order.

    Raises:
        ConfigError: no such file, not YAML, unknown key (with the nearest known one), or a value out of range.
    """
    recipes = load_stages(path, overrides)
    if len(recipes) > 1:
        raise ConfigError(
            "this recipe has stages of its own, which only `gst train` runs one after the other",
            where={"file": path, "key": "stages"},
            expected="a recipe of one run",
            hint="put what the stages share into a file without `stages:` and name that one",
        )
    return recipes[0]


def load_stages(path: str | Path, overrides: Sequence[str] = ()) -> list[Recipe]:
    """The runs of a recipe file, in order: one, or those under its key `stages`.

    Each entry of `stages` has a `name` and whatever it changes of the rest of the file; overrides change every stage.
    Its run is the arm `<arm>-<name>`. A stage that gives an `arm` of its own is that arm and takes nothing from an arm
    on top of the file, so that all of these share it. Each but the first starts from the model that the one before it
    saved: all of its weights, or its adapters and whatever else it trained beside the model that it started from.

    Raises:
        ConfigError: as `load_recipe`, stages without names of their own, or a stage with other adapters than the one
            before it, which it is to train on.
    """
    shared = _read_named(path)
    file = Path(path)
    if "stages" not in shared:
        return [_parse_with(shared, overrides, file)]
    stages = shared.pop("stages")
    alone = {key: value for key, value in read_tree(find_recipe(path)[0]).items() if key != "stages"}
    names = [stage.get("name") if isinstance(stage, dict) else None for stage in stages or []]
    if not names or None in names or len(set(names)) != len(names):
        raise ConfigError("every stage needs a name of its own", where={"file": file, "key": "stages"}, got=names)
    recipes: list[Recipe] = []
    for number, stage in enumerate(stages):
        below = alone if "arm" in stage else shared
        tree = merge(copy.deepcopy(below), {key: value for key, value in stage.items() if key != "name"})
        recipe = _parse_with(tree, overrides, file)
        update: dict[str, Any] = {"arm": recipe.arm if "arm" in stage else f"{recipe.arm}-{stage['name']}"}
        if recipes:
            _require_same_adapters(recipes[-1].model, recipe.model, file, stage["name"])
            update["model"] = recipe.model.model_copy(update={"path": str(saved_model(recipes[-1]))})
        if number < len(stages) - 1:
            update["train"] = recipe.train.model_copy(update={"save_model": True})
        recipes.append(recipe.model_copy(update=update))
    return recipes


def _require_same_adapters(before: ModelConfig, after: ModelConfig, file: Path, stage: str) -> None:
    """Say before the first stage is trained that the second will not take up its adapters."""
    if not before.parts.have_adapters or after.adapters == "merge":
        return
    for key in ("parts", "lora"):
        was, now = getattr(before, key), getattr(after, key)
        keys = ("r", "alpha", "targets", "dora", "rslora") if key == "lora" else type(was).model_fields
        for name in keys:
            old, new = getattr(was, name), getattr(now, name)
            if old != new and (key == "lora" or "lora" in (old, new)):
                raise ConfigError(
                    f"stage `{stage}` cannot train the adapters of the stage before it on: its own are others",
                    where={"file": file, "key": f"model.{key}.{name}"},
                    got=new,
                    expected=old,
                    hint=f"give stage `{stage}` the same, or model.adapters: merge, which merges the old ones first",
                )


def saved_model(recipe: Recipe) -> Path:
    """Where a run with `train.save_model` leaves its model."""
    return run_folder(recipe) / "model"


def run_folder(recipe: Recipe) -> Path:
    """Where a run leaves everything."""
    return Path(recipe.out) / "arms" / f"{recipe.arm}-s{recipe.train.seed}"


def affinity_source(recipe: Recipe) -> Path:
    """Where a run finds affinity versions."""
    return Path(recipe.schedule.affinity or Path(recipe.out) / "affinity")


def _parse_with(tree: dict[str, Any], overrides: Sequence[str], file: Path) -> Recipe:
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(tree, source=file)


def parse_recipe(tree: dict[str, Any], source: Path | str) -> Recipe:
    """Validate an already merged tree; `source` is named in errors."""
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise explain(error, source) from None
    regime = REGIME_ALIASES.get(recipe.schedule.regime, recipe.schedule.regime)
    if regime not in REGIMES:
        raise ConfigError(
            "unknown regime",
            where={"file": source, "key": "schedule.regime"},
            got=regime,
            expected=", ".join(REGIMES),
            hint=_did_you_mean(regime, (*REGIMES, *REGIME_ALIASES)),
        )
    return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"regime": regime})})


def find_recipe(path: str | Path) -> tuple[Path, ...]:
    """The files a recipe name means, later ones on top of earlier ones.

    A file; `<name>[.yaml]` among the shipped recipes; `BASE-ARM`, a shipped base with a shipped arm on top; or
    `BASE:ARM`, the same with any file as base or arm.
    """
    name = str(path)
    if found := _one_file(name, RECIPES):
        return (found,)
    cuts = [(name[:at], name[at + 1 :]) for at, letter in enumerate(name) if letter in "-:"]
    for base, arm in cuts:
        files = _one_file(base, RECIPES), _one_file(arm, ARMS)
        if files[0] and files[1]:
            return files[0], files[1]
    shipped, arms = shipped_recipes()
    raise ConfigError(
        "no such recipe",
        where={"file": path},
        expected=f"a YAML file, one of {', '.join(shipped)}, or one of these with an arm: {', '.join(arms)}",
        hint=_did_you_mean(name, [*shipped, *(f"{base}-{arm}" for base in shipped for arm in arms)]),
    )


def shipped_recipes() -> tuple[list[str], list[str]]:
    """Names of the shipped bases, and of the arms that go on top of any of them."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml")), sorted(file.stem for file in ARMS.glob("*.yaml"))


def _one_file(name: str, folder: Path) -> Path | None:
    places = (Path(name), folder / name, folder / f"{name}.yaml") if name else ()
    return next((place for place in places if place.is_file()), None)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: what a run saves beside its results, loadable again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def recipe_digest(recipe: Recipe, *, ignore: Sequence[str] = ("out", "logging", "service")) -> str:
    """sha256 of what influences the numbers of a run; the way to its shards (`data.cache`) does not."""
    tree = recipe.model_dump(mode="json", exclude={"data": {"cache"}} | dict.fromkeys(ignore, True))
    return hashlib.sha256(yaml.safe_dump(tree).encode()).hexdigest()


def _read_named(path: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The merged tree of a recipe's name."""
    tree: dict[str, Any] = {}
    for file in find_recipe(path):
        tree = merge(tree, read_tree(file, seen))
    return tree


def read_tree(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping with what it `extends` below it; ConfigError when it is neither, or extends itself."""
    if file in seen:
        raise ConfigError("recipes extend each other in a circle", where={"file": file}, got=[str(f) for f in seen])
    try:
        tree = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where={"file": file}) from None
    if not isinstance(tree, dict):
        raise ConfigError("a recipe is a mapping", where={"file": file}, got=type(tree).__name__)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    beside = file.parent / str(parent)
    if beside.is_file():
        return merge(read_tree(beside, (*seen, file)), tree)
    return merge(_read_named(parent, (*seen, file)), tree)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings key by key, all else replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError("an override reads a.b=value", got=override)
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError("an override goes below a plain value", where={"key": dotted}, got=child)
        node = child
    try:
        node[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the override's value is not YAML: {error}", where={"key": dotted}, got=text) from None


def explain(error: ValidationError, source: Path | str, model: type[BaseModel] = Recipe) -> ConfigError:
    """The first mistake of a file, with its key and, for an unknown one, the nearest known."""
    errors = error.errors()
    # A mistyped key is also a missing one; the typing mistake is what helps.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"]]
    where: dict[str, object] = {"file": source, "key": ".".join(path)}
    if first["type"] == "extra_forbidden":
        known = _fields_at(path[:-1], model)
        return ConfigError(
            "unknown recipe key", where=where, expected=", ".join(known), hint=_did_you_mean(path[-1], known)
        )
    if first["type"] == "missing":
        return ConfigError("a recipe key is missing", where=where, hint=f"set it with {where['key']}=VALUE")
    return ConfigError(first["msg"].removeprefix("Value error, "), where=where, got=first.get("input"))


def _fields_at(path: list[str], model: type[BaseModel]) -> list[str]:
    for key in path:
        if key not in model.model_fields:  # a name of the user's own, in a mapping of sections
            continue
        field = model.model_fields[key].annotation
        kinds = [kind for kind in (field, *get_args(field)) if isinstance(kind, type)]  # a section, or one or None
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)


def _did_you_mean(name: str, known: Sequence[str]) -> str | None:
    match = nearest(name, known)
    return f"did you mean `{match}`?" if match else None
