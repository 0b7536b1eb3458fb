"""Writes a trained model's files: adapters in peft's format, or the whole model as a `from_pretrained` folder.

Weights may be partitioned over ranks. Then every rank calls these functions, `gathered` makes some parameters whole for
a moment, and the rank with `writes` keeps what it needs: never more than one file of the whole model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import GenerationConfig
from transformers.core_model_loading import revert_weight_conversion

from pipeline.config.schema import ModelConfig
from pipeline.models.card import CardFacts, model_card
from pipeline.models.exported import (
    ADAPTER_FILE,
    EXPORT_FILE,
    VERSION,
    Origin,
    file_name,
    modules_in_full,
    peft_config_of,
)
from pipeline.models.family import PEFT_PREFIX, own_name
from pipeline.models.load import DTYPES, load_config, load_processor, without_wrapper
from pipeline.models.parts import ADAPTER_MARK

MAX_FILE_SIZE = "5GB"
INDEX_FILE = "model.safetensors.index.json"

Gathered = Callable[[list[torch.Tensor]], AbstractContextManager[Any]]


def write_adapters(
    folder: Path,
    origin: Origin,
    tensors: Mapping[str, torch.Tensor],
    buffers: Mapping[str, torch.Tensor],
    facts: CardFacts,
) -> None:
    """Write adapters, and what else was trained, in peft's format.

    Args:
        tensors: name in the trained model -> value; saved as the model computes, in the recipe's `model.dtype`.
        buffers: the model's; those in modules that were trained in full are saved, because `peft` expects them.
    """
    config = origin.model
    tensors = {**{PEFT_PREFIX + name: tensor for name, tensor in origin.trained.items()}, **tensors}
    inside = tuple(f"{module}." for module in modules_in_full(tensors))
    kept = {name: tensor for name, tensor in buffers.items() if own_name(name).startswith(inside)}
    weights = {file_name(name): _as_computed(tensor, config) for name, tensor in {**kept, **tensors}.items()}
    save_file(weights, folder / ADAPTER_FILE, metadata={"format": "pt"})
    peft_config_of(config, tensors).save_pretrained(str(folder))
    _sort_layers(folder / "adapter_config.json")
    content = {
        "version": VERSION,
        "model": config.model_dump(mode="json"),
        "base_digest": origin.base_digest,
        **facts.to_json(),
    }
    (folder / EXPORT_FILE).write_text(json.dumps(content, indent=1) + "\n")


def write_whole_model(
    folder: Path, model: torch.nn.Module, *, gathered: Gathered = nullcontext, writes: bool = True
) -> None:
    """Write all weights, adapters merged, under the names that the model is published with, in files of 5 GB at most.

    Args:
        model: a `transformers` model, with peft's wrapper or not.
        gathered: makes partitioned parameters whole.
    """
    own = without_wrapper(model)
    pieces = _pieces(model)
    empty = {name: piece.empty() for name, piece in pieces.items()}
    published = revert_weight_conversion(own, dict(empty))
    names = {id(tensor): name for name, tensor in empty.items()}
    if all(id(tensor) in names for tensor in published.values()):  # only called otherwise
        sources = {name: pieces[names[id(tensor)]] for name, tensor in published.items()}
        _write_files(folder, published, lambda name: sources[name].read(gathered, writes), writes)
        return
    # Published weights that are made of several of ours: all of ours are needed first.
    values = {name: piece.read(gathered, writes) for name, piece in pieces.items()}
    if writes:
        published = revert_weight_conversion(own, {name: value for name, value in values.items() if value is not None})
        _write_files(folder, published, lambda name: published[name], writes)


def write_companions(folder: Path, config: ModelConfig, facts: CardFacts) -> None:
    """Write what a folder has beside weights: config, generation config and processor as at `config.path`; the card.

    Raises:
        ModelError: nothing loadable there.
    """
    source = config.path
    model_config = load_config(source)
    model_config.dtype = DTYPES[config.dtype]
    model_config.save_pretrained(folder)
    try:
        GenerationConfig.from_pretrained(source).save_pretrained(folder)
    except OSError:  # few models have none
        GenerationConfig.from_model_config(model_config).save_pretrained(folder)
    load_processor(source).save_pretrained(folder)
    (folder / "README.md").write_text(model_card(facts))


def saved_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a model saves beside its parameters; none of it is ever partitioned."""
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in weights}


def _as_computed(tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """On the CPU, numbers in the type that the model computes in; counters stay what they are."""
    dtype = DTYPES[config.dtype] if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype).contiguous()


def _sort_layers(file: Path) -> None:
    """peft keeps the layers' names as a set, so their order in its file differs from process to process."""
    content = json.loads(file.read_text())
    content["target_modules"] = sorted(content["target_modules"])
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class _Piece:
    """One weight of the model without adapters; `layer`: the layer whose adapters belong into it."""

    value: torch.Tensor
    layer: Any = None

    def empty(self) -> torch.Tensor:
        shape = getattr(self.value, "ds_shape", self.value.shape)
        return torch.empty(shape, dtype=self.value.dtype, device="meta")

    def read(self, gathered: Gathered, writes: bool) -> torch.Tensor | None:
        """The weight on the CPU, None without `writes`; a collective where it is partitioned."""
        adapters = [] if self.layer is None else list(self.layer.parameters())
        with gathered([self.value, *adapters]):
            if not writes:
                return None
            value = self.value if self.layer is None else _merged(self.layer)
            return value.detach().cpu().clone().contiguous()


def _pieces(model: torch.nn.Module) -> dict[str, _Piece]:
    """Name in the `transformers` model -> its weight; each once, where modules share it."""
    own = without_wrapper(model)
    layers = {name: module for name, module in own.named_modules() if isinstance(module, LoraLayer)}
    left_out = set(own._keys_to_ignore_on_save or ())
    pieces = {}
    for name, parameter in own.named_parameters():
        if ADAPTER_MARK not in name and name not in left_out:
            place, mark, rest = name.rpartition(".base_layer.")
            layer = layers[place] if mark and rest == "weight" else None
            pieces[f"{place}.{rest}" if mark else name] = _Piece(parameter, layer)
    buffers = {name: buffer for name, buffer in saved_buffers(own).items() if name not in left_out}
    return pieces | {name: _Piece(buffer) for name, buffer in buffers.items()}


def _merged(layer: Any) -> torch.Tensor:
    """A layer's weight with its adapters merged by peft; the layer is left as it was, to the bit."""
    before = layer.get_base_layer().weight.detach().clone()
    layer.merge()
    merged: torch.Tensor = layer.get_base_layer().weight.detach().clone()
    layer.unmerge()
    layer.get_base_layer().weight.data.copy_(before)
    return merged


def _write_files(
    folder: Path, weights: dict[str, torch.Tensor], read: Callable[[str], torch.Tensor | None], writes: bool
) -> None:
    """One file, or several and their index; `read` is called for each name of `weights`, on all ranks alike."""
    plan = split_torch_state_dict_into_shards(
        weights, filename_pattern="model{suffix}.safetensors", max_shard_size=MAX_FILE_SIZE
    )
    for file, names in plan.filename_to_tensors.items():
        content = {name: read(name) for name in names}
        if writes:
            save_file(
                {name: value for name, value in content.items() if value is not None},
                folder / file,
                metadata={"format": "pt"},
            )
    if writes and plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
