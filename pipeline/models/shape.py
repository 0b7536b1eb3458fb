"""The shape of a recipe's model without its weights: built on torch's meta device from its config alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMultimodalLM

from pipeline.config.activations import ENCODER, LANGUAGE_MODEL, Blocks
from pipeline.config.memory import ModelShape, ParameterShape
from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError, did_you_mean
from pipeline.models.family import PARTS, Family, family_of, module_at, resolve
from pipeline.models.load import DTYPES, load_config, without_wrapper
from pipeline.models.parts import set_parts

SHAPES = Path(__file__).resolve().parent / "shapes"  # configs of published models
# Tokens in the language model for a second of audio, as published: 100 mel frames, halved by convolutions, then pooled
# or stacked. SALMONN's are 88 for any clip of up to 30 s.
AUDIO_TOKENS_PER_S = {
    "qwen2_audio": 25.0,
    "qwen2_5_omni": 25.0,
    "audio_flamingo_3": 25.0,
    "voxtral": 12.5,
    "granite_speech": 10.0,
    "salmonn": 88 / 30,
}
_UNKNOWN_TOKENS_PER_S = 25.0
_OUTPUT_LAYERS = ("o_proj", "out_proj", "down_proj", "fc2", "down", "dense")  # their inputs are no other layer's


def find_shape(name: str) -> Path:
    """The config file that `name` means: a file, a model's folder, or a shipped shape.

    Raises:
        ModelError: none of these.
    """
    for candidate in (Path(name), Path(name) / "config.json", SHAPES / f"{Path(name).name.lower()}.json"):
        if candidate.is_file():
            return candidate
    shipped = sorted(file.stem for file in SHAPES.glob("*.json"))
    raise ModelError(
        "no config of a model here",
        where={"path": name},
        expected=f"a config.json, a folder with one, or one of {', '.join(shipped)}",
        hint=did_you_mean(Path(name).name, shipped),
    )


def shape_of(config: ModelConfig, file: Path) -> ModelShape:
    """The shape of the model that `file` configures, with the parts learning that the recipe names; no weights.

    Raises:
        ModelError: not the config of a model that can be built, or a part that cannot learn as told.
    """
    own = load_config(str(file))
    stored = next((name for name, dtype in DTYPES.items() if dtype == own.dtype), None)  # building changes `own`
    family = family_of(own)
    kind: Any = AutoModelForMultimodalLM if family.model_class is None else resolve(family.model_class)
    build = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    with torch.device("meta"):
        base = build(own, dtype=DTYPES[config.dtype])
        model = set_parts(base, family, config)
    inner = without_wrapper(model)
    return ModelShape(
        parameters=tuple(ParameterShape(name, p.numel(), p.requires_grad) for name, p in model.named_parameters()),
        largest_module=max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()),
        blocks=tuple(_stacks(inner, family)),
        vocabulary=int(module_at(inner, family.head).weight.shape[0]),
        audio_tokens_per_s=AUDIO_TOKENS_PER_S.get(family.name, _UNKNOWN_TOKENS_PER_S),
        window_frames=_window_frames(inner, family),
        stored_dtype=stored,
    )


def _stacks(model: Any, family: Family) -> Iterator[Blocks]:
    """The audio encoder's and the language model's blocks. The aligner is small beside them and is left out."""
    learns = {part: False for part in PARTS}
    for name, parameter in model.named_parameters():
        part = family.part_of(name)
        if part is not None:
            learns[part] |= parameter.requires_grad
    for path, name, reached in (
        (family.encoder, ENCODER, learns["encoder"]),
        (family.decoder, LANGUAGE_MODEL, any(learns.values())),
    ):
        stack = _longest_list(module_at(model, path))
        if stack is not None:
            yield _blocks(name, stack, is_left_out=not reached)


def _longest_list(module: torch.nn.Module) -> torch.nn.ModuleList | None:
    """The list of blocks of a transformer: the longest list of modules in it."""
    lists = [each for each in module.modules() if isinstance(each, torch.nn.ModuleList) and len(each)]
    return max(lists, key=len, default=None)


def _blocks(name: str, stack: torch.nn.ModuleList, *, is_left_out: bool) -> Blocks:
    """Sizes of a stack from the modules of its first block, by what they are."""
    block = stack[0]
    layers = dict(_linear_layers(block))
    attention = max((m.in_features for path, m in layers.items() if _leaf(path) in ("o_proj", "out_proj")), default=0)
    hidden = min(module.in_features for module in layers.values())
    intermediate = max(max(module.in_features, module.out_features) for module in layers.values())
    norms = [module for module in block.modules() if "norm" in type(module).__name__.lower()]
    inputs = {
        (path.rpartition(".")[0], path if _leaf(path) in _OUTPUT_LAYERS else "", module.in_features)
        for path, module in layers.items()
        if any(parameter.requires_grad for parameter in module.parameters())
    }
    adapters = [m for path, m in block.named_modules() if isinstance(m, torch.nn.Linear) and ".lora_A." in f".{path}."]
    dropped = [m for m in layers.values() if hasattr(m, "lora_dropout") and _drops(m.lora_dropout)]
    return Blocks(
        name=name,
        layers=len(stack),
        hidden=hidden,
        intermediate=intermediate,
        attention=attention or hidden,
        heads=_heads(block, attention or hidden),
        gated=any("gate" in path for path in layers),
        rms_norm=any("rms" in type(norm).__name__.lower() for norm in norms),
        norms_learn=any(parameter.requires_grad for norm in norms for parameter in norm.parameters()),
        kept_inputs=sum(width for _, _, width in inputs),
        dropped_inputs=sum(module.in_features for module in dropped),
        adapter_ranks=sum(adapter.out_features for adapter in adapters),
        is_left_out=is_left_out,
    )


def _linear_layers(block: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The block's own linear layers by path: plain ones, and those that peft has wrapped."""
    wrapped = {path for path, module in block.named_modules() if hasattr(module, "base_layer")}
    for path, module in block.named_modules():
        inside = any(path.startswith(f"{each}.") for each in wrapped)
        if not inside and (path in wrapped or isinstance(module, torch.nn.Linear)):
            yield path, module


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _drops(dropouts: Any) -> bool:
    return any(isinstance(each, torch.nn.Dropout) and each.p > 0 for each in dropouts.values())


def _heads(block: torch.nn.Module, width: int) -> int:
    """Attention heads, from the head size that attention modules of `transformers` know."""
    known = [getattr(module, "head_dim", None) for module in block.modules()]
    sizes = [size for size in known if isinstance(size, int)]
    return width // sizes[0] if sizes else 1


def _window_frames(model: Any, family: Family) -> int:
    encoder: Any = module_at(model, family.encoder)
    positions = getattr(getattr(encoder, "config", None), "max_source_positions", None)
    return int(positions or 0)
