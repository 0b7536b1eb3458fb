"""The DeepSpeed JSON of a run: a file from `ds_configs/` plus what the recipe owns.

DeepSpeed ignores unknown top-level keys and leaves `auto` values to others; both are refused here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.batches import plan_batches
from pipeline.config.schema import Recipe
from pipeline.config.zero import ZERO_KEYS
from pipeline.errors import ConfigError, nearest

DS_CONFIGS = Path(__file__).resolve().parent.parent.parent / "ds_configs"

# DeepSpeed key -> what decides it. Some would be overwritten in silence, some do nothing here.
OWNED_BY_RECIPE = {
    "train_batch_size": "set train.global_batch in the recipe",
    "train_micro_batch_size_per_gpu": "set train.micro_batch in the recipe",
    "gradient_accumulation_steps": "it follows from train.global_batch, train.micro_batch and the number of ranks",
    "gradient_clipping": "set train.optimizer.clip_norm in the recipe",
    "optimizer": "set train.optimizer in the recipe",
    "zero_allow_untested_optimizer": "set train.optimizer in the recipe; all that it names are tested here",
    "zero_force_ds_cpu_optimizer": "set train.optimizer in the recipe; it is torch's own on the CPU too",
    "zero_optimization.offload_optimizer.ratio": "it needs DeepSpeed's own Adam; offload all or nothing",
    "scheduler": "set train.lr_schedule in the recipe",
    "bf16": "set model.dtype in the recipe",
    "fp16": "set model.dtype in the recipe",
    "data_types": "model.dtype decides: gradients of bf16 models are added up in fp32",
    "communication_data_type": "model.dtype decides: gradients of bf16 models are reduced in fp32",
    "activation_checkpointing": "set train.speed.activation_checkpointing in the recipe",
    "checkpoint.load_universal": "resuming decides it",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "set train.save_model in the recipe",
    "zero_optimization.gather_16bit_weights_on_model_save": "set train.save_model in the recipe",
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": "set train.save_model in the recipe",
}
KNOWN_KEYS = frozenset(
    {
        "zero_optimization",
        "flops_profiler",
        "comms_logger",
        "wall_clock_breakdown",
        "memory_breakdown",
        "steps_per_print",
        "dump_state",
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


def read_deepspeed_json(file: Path) -> dict[str, Any]:
    """The tree of a file, checked; ConfigError when it is not JSON, or as `check_deepspeed_json`."""
    try:
        tree: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"not valid JSON: {error}", where={"file": file}) from None
    check_deepspeed_json(tree, file)
    return tree


def check_deepspeed_json(tree: dict[str, Any], file: Path) -> None:
    """Refuse keys that the recipe owns, keys DeepSpeed does not know, `auto` left to nobody, and DeepCompile."""
    for path, value in _nodes(tree):
        where: dict[str, object] = {"file": file, "key": path}
        if path in OWNED_BY_RECIPE:
            raise ConfigError(
                "this DeepSpeed key belongs to the recipe",
                where=where,
                hint=f"delete it there; {OWNED_BY_RECIPE[path]}",
            )
        section, _, key = path.rpartition(".")
        known = {"": KNOWN_KEYS, "zero_optimization": ZERO_KEYS}.get(section)
        if known is not None and key not in known:
            match = nearest(key, known)
            raise ConfigError(
                "unknown DeepSpeed key",
                where=where,
                hint=f"did you mean `{match}`?" if match else "DeepSpeed would ignore or refuse it",
            )
        if value == "auto":
            raise ConfigError("`auto` is not filled in by anything here", where=where)
        if path == "compile.deepcompile" and value:
            raise ConfigError(
                "DeepCompile reduces gradients inside its compiled graph, where no hook can sketch them",
                where=where,
                hint="set it to false",
            )


def render_deepspeed(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """The complete configuration handed to `deepspeed.initialize`."""
    file = find_deepspeed_json(recipe.engine.deepspeed)
    tree = read_deepspeed_json(file)
    _check_zero_stage(recipe, tree, file)
    if recipe.sketch.enabled and recipe.sketch.gradient == "adam":
        require_adamw(recipe)
    return {
        **tree,
        "train_micro_batch_size_per_gpu": recipe.train.micro_batch,
        "gradient_accumulation_steps": plan_batches(recipe.train, world_size).accumulation,
        "gradient_clipping": recipe.train.optimizer.clip_norm or 0.0,
        "zero_allow_untested_optimizer": True,  # DeepSpeed has tested Adam's relatives only; our tests cover the others
        "zero_force_ds_cpu_optimizer": False,  # offloaded too, the recipe's own optimizer is the one that steps
        **_precision(recipe, int(tree.get("zero_optimization", {}).get("stage", 0))),
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


def _precision(recipe: Recipe, stage: int) -> dict[str, Any]:
    """Number formats. Sums of bf16 gradients, over micro-batches and over ranks, keep too few digits in bf16 itself."""
    formats: dict[str, Any] = {
        "bf16": {"enabled": recipe.model.dtype == "bf16"},
        "fp16": {"enabled": recipe.model.dtype == "fp16"},
    }
    if recipe.model.dtype == "bf16" and stage > 0:  # without ZeRO, DeepSpeed has one format for all
        formats |= {"communication_data_type": "fp32", "data_types": {"grad_accum_dtype": "fp32"}}
    return formats


def _nodes(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a tree with its whole path, parents first."""
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        yield here, value
        if isinstance(value, dict):
            yield from _nodes(value, here)
