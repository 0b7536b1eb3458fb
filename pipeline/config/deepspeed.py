"""The DeepSpeed JSON of a run: a file from `ds_configs/` plus what the recipe owns.

DeepSpeed ignores unknown top-level keys and leaves `auto` values to others; both are refused here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.schema import Recipe
from pipeline.errors import ConfigError, WorldSizeError, nearest

DS_CONFIGS = Path(__file__).resolve().parent.parent.parent / "ds_configs"

OWNED_BY_RECIPE = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.global_batch",
    "gradient_clipping": "train.optimizer.clip_norm",
    "optimizer": "train.optimizer",
    "scheduler": "train.lr_schedule",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
}
KNOWN_KEYS = frozenset(
    {
        "zero_optimization",
        "communication_data_type",
        "data_types",
        "activation_checkpointing",
        "flops_profiler",
        "comms_logger",
        "wall_clock_breakdown",
        "memory_breakdown",
        "steps_per_print",
        "dump_state",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "prescale_gradients",
        "gradient_predivide_factor",
        "sparse_gradients",
        "checkpoint",
        "compile",
        "aio",
        "nebula",
        "disable_allgather",
        "communication_backend_name",
        "tensor_parallel",
        "seq_parallel_communication_data_type",
    }
)


def accumulation_steps(recipe: Recipe, world_size: int) -> int:
    """Micro-batches per rank and optimizer step.

    Raises:
        WorldSizeError: the global batch does not deal evenly to `world_size` ranks.
    """
    slots = recipe.train.global_batch // recipe.train.micro_batch
    if slots % world_size:
        fitting = [str(n) for n in range(1, slots + 1) if slots % n == 0]
        raise WorldSizeError(
            "the world size does not divide the batch",
            where={"key": "train.global_batch / train.micro_batch"},
            got=f"{slots} micro-batches per step on {world_size} ranks",
            expected=f"a world size out of {', '.join(fitting)}",
            hint="change the number of ranks, train.global_batch or train.micro_batch",
        )
    return slots // world_size


def find_deepspeed_json(name: str) -> Path:
    """The file that `name` means: a path, or a file in `ds_configs/`; ConfigError when there is none."""
    for candidate in (Path(name), DS_CONFIGS / name):
        if candidate.is_file():
            return candidate
    raise ConfigError(
        "no such DeepSpeed configuration",
        where={"key": "engine.deepspeed"},
        got=name,
        expected=", ".join(sorted(file.name for file in DS_CONFIGS.glob("*.json"))),
    )


def check_deepspeed_json(tree: dict[str, Any], file: Path) -> None:
    """Refuse keys that the recipe owns, keys DeepSpeed does not know, `auto` left to nobody, and DeepCompile."""
    for key in tree:
        if key in OWNED_BY_RECIPE:
            raise ConfigError(
                "this DeepSpeed key belongs to the recipe",
                where={"file": file, "key": key},
                hint=f"delete it there and set {OWNED_BY_RECIPE[key]} in the recipe",
            )
        if key not in KNOWN_KEYS:
            match = nearest(key, KNOWN_KEYS)
            raise ConfigError(
                "unknown DeepSpeed key",
                where={"file": file, "key": key},
                hint=f"did you mean `{match}`?" if match else "DeepSpeed would ignore it silently",
            )
    for path, value in _leaves(tree):
        if value == "auto":
            raise ConfigError("`auto` is not filled in by anything here", where={"file": file, "key": path})
        if path == "compile.deepcompile" and value:
            raise ConfigError(
                "DeepCompile reduces gradients inside its compiled graph, where no hook can sketch them",
                where={"file": file, "key": path},
                hint="set it to false",
            )


def render_deepspeed(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """The complete configuration handed to `deepspeed.initialize`."""
    file = find_deepspeed_json(recipe.engine.deepspeed)
    try:
        tree = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"not valid JSON: {error}", where={"file": file}) from None
    check_deepspeed_json(tree, file)
    _check_zero_stage(recipe, tree, file)
    if recipe.sketch.enabled and recipe.sketch.gradient == "adam":
        require_adamw(recipe)
    return {
        **tree,
        "train_micro_batch_size_per_gpu": recipe.train.micro_batch,
        "gradient_accumulation_steps": accumulation_steps(recipe, world_size),
        "gradient_clipping": recipe.train.optimizer.clip_norm or 0.0,
        "zero_allow_untested_optimizer": True,  # DeepSpeed has tested Adam's relatives only; our tests cover the others
        "bf16": {"enabled": recipe.model.dtype == "bf16"},
        "fp16": {"enabled": recipe.model.dtype == "fp16"},
    }


def require_adamw(recipe: Recipe) -> None:
    """ConfigError unless the optimizer has the second moments that `sketch.gradient: adam` divides by."""
    if recipe.train.optimizer.name != "adamw":
        raise ConfigError(
            "sketch.gradient=adam divides by the second moments of AdamW",
            where={"key": "train.optimizer.name"},
            got=recipe.train.optimizer.name,
            expected="adamw",
        )


def _check_zero_stage(recipe: Recipe, tree: dict[str, Any], file: Path) -> None:
    """Refuse what is right on the slices of ZeRO-3 alone, and what cannot work with where these are put."""
    zero, optimizer = tree.get("zero_optimization", {}), recipe.train.optimizer.name
    stage, offload = zero.get("stage", 0), zero.get("offload_optimizer", {}).get("device", "none")
    needs = _needs_zero3(recipe)
    for key, why in needs.items():
        if stage != 3:
            raise ConfigError(
                f"{key} needs ZeRO-3: {why}",
                where={"file": file, "key": "zero_optimization.stage"},
                got=stage,
                expected=3,
                hint=f"use stage 3, or change {key.split('=')[0]}",
            )
    fits = ["none"] if optimizer == "sophia" else ["none", "cpu"]  # its extra passes end before gradients are moved
    trained = [key for key in needs if key.startswith("train.")]
    if trained and offload not in fits:
        raise ConfigError(
            f"{trained[0]} cannot work where the optimizer's state is put",
            where={"file": file, "key": "zero_optimization.offload_optimizer.device"},
            got=offload,
            expected=" or ".join(fits),
        )


def _needs_zero3(recipe: Recipe) -> dict[str, str]:
    """Recipe settings that are right under ZeRO-3 alone, and why."""
    train, needs = recipe.train, {}
    if recipe.sketch.enabled and recipe.sketch.mode == "partition":
        needs["sketch.mode=partition"] = "it sketches the slices of gradients that only ZeRO-3 leaves"
    if train.optimizer.name not in ("adamw", "lion"):
        needs[f"train.optimizer.name={train.optimizer.name}"] = "adamw and lion alone work under other stages"
    if train.optimizer.autoclip is not None:
        needs["train.optimizer.autoclip"] = "the norm is taken over its slices of the gradient"
    if train.averaging.kind != "none":
        needs[f"train.averaging.kind={train.averaging.kind}"] = "its slices of the fp32 weights are averaged"
    if train.grades is not None:
        needs["train.grades"] = "it watches and holds slices of matrices"
    if train.keep_best is not None and train.keep_best.use_for_test:
        needs["train.keep_best.use_for_test"] = "its slices of the best weights are put back"
    return needs


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path}.{key}" if path else key)]
    return [(path, tree)]
