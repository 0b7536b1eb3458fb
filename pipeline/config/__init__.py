"""Recipes: schema, loading, and the DeepSpeed JSON that follows from one."""

from pipeline.config.load import (
    affinity_source,
    dump_recipe,
    find_recipe,
    load_recipe,
    load_stages,
    parse_recipe,
    recipe_digest,
    run_folder,
    saved_model,
    shipped_recipes,
)
from pipeline.config.schema import Recipe

__all__ = [
    "Recipe",
    "affinity_source",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "load_stages",
    "parse_recipe",
    "recipe_digest",
    "run_folder",
    "saved_model",
    "shipped_recipes",
]
