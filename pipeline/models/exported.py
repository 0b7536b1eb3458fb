"""What `gst export` writes of a model with adapters, and how it becomes a model again.

    export.json                what it is: the base model with its digest, the recipe's `model` section, what weights
    adapter_config.json        peft's; `modules_to_save` names what was trained in full beside the adapters
    adapter_model.safetensors  peft's names: `base_model.model.` and the base model's own name of the weight
    config.json, generation_config.json, processor and tokenizer: the base model's
    README.md                  the model card

`peft` alone loads such a folder on the base model as well. A model without adapters is exported as an ordinary
`from_pretrained` folder, which needs nothing from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.family import PEFT_PREFIX, own_name
from pipeline.models.parts import ADAPTER_MARK, adapters_of

VERSION = 1
EXPORT_FILE = "export.json"
ADAPTER_FILE = "adapter_model.safetensors"
_ADAPTER_NAME = "default"  # peft's name for a model's only adapter


@dataclass(frozen=True)
class Export:
    """A folder with adapters for a base model.

    Attributes:
        model: the recipe's section that trained it; `path` is the base model's.
        base_digest: of the base model (`base_digest`).
    """

    folder: Path
    model: ModelConfig
    base_digest: str

    @property
    def base(self) -> str:
        return self.model.path

    def require_base(self) -> str:
        """The path of the base model, which must be there and be the one that was trained on.

        Raises:
            ModelError: it is not there, or its weights are others.
        """
        found = base_digest(self.base)
        if found != self.base_digest:
            is_there = Path(self.base).is_dir()
            raise ModelError(
                "these adapters were trained on another base model" if is_there else "the base model is not there",
                where={"export": self.folder, "base": self.base},
                got=found if is_there else "no such folder",
                expected=self.base_digest,
                hint=f"bring that model back, or give its new place as model.path in {self.folder / EXPORT_FILE}",
            )
        return self.base

    def adapter_config(self) -> PeftLoraConfig:
        config: PeftLoraConfig = PeftLoraConfig.from_pretrained(str(self.folder))
        return config

    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights of the export, by their names in a model with peft's wrapper.

        Raises:
            ModelError: the file is damaged or not there.
        """
        file = self.folder / ADAPTER_FILE
        try:
            return {wrapped_name(name): tensor for name, tensor in load_file(file).items()}
        except (OSError, SafetensorError) as error:
            raise ModelError("the weights of this export cannot be read", where={"file": file}, got=error) from None

    def trained(self) -> dict[str, torch.Tensor]:
        """The weights that were trained in full, by their names in the base model; raises what `tensors` does."""
        return {own_name(name): tensor for name, tensor in self.tensors().items() if ADAPTER_MARK not in name}

    def put_trained(self, model: torch.nn.Module) -> None:
        """Give the base model, without adapters, the weights that were trained in full."""
        put_weights(model, self.trained(), self.folder)

    def put_adapters(self, model: torch.nn.Module) -> None:
        """Give a model with new adapters the values of the trained ones.

        Raises:
            ModelError: the adapters of the model are others than these, by their places, size or scale.
        """
        found = {name: tensor for name, tensor in self.tensors().items() if ADAPTER_MARK in name}
        self._require_same_adapters(model, found)
        put_weights(model, found, self.folder)

    def merged_into(self, model: Any) -> torch.nn.Module:
        """The base model with the adapters merged into its weights by peft."""
        config = self.adapter_config()
        config.modules_to_save = None  # `put_trained` has done that
        adapted = get_peft_model(model, config)
        self.put_adapters(adapted)
        merged: torch.nn.Module = adapted.merge_and_unload()
        return merged

    def _require_same_adapters(self, model: Any, found: Mapping[str, torch.Tensor]) -> None:
        configs = getattr(model, "peft_config", None)
        names = [name for name, _ in model.named_parameters()]
        mine = _adapter_settings(configs[_ADAPTER_NAME], names) if configs else {}
        theirs = _adapter_settings(self.adapter_config(), found)
        if differing := [key for key, value in theirs.items() if mine.get(key) != value]:
            raise ModelError(
                "the model's adapters cannot go on from those of the export: they are others",
                where={"export": self.folder, "keys": "model.parts, model.lora"},
                got={key: _short(mine.get(key)) for key in differing} if mine else "no part learns by LoRA",
                expected={key: _short(theirs[key]) for key in differing},
                hint="give the parts and LoRA of the run that was exported, or set model.adapters=merge",
            )


@dataclass(frozen=True)
class Origin:
    """What a run's trained weights are exported beside.

    Attributes:
        model: the run's section of the recipe; `path` is that of a whole model, also where the run went on from an
            export with adapters.
        trained: weights of that export that the base model has otherwise, by their names there.
    """

    model: ModelConfig
    base_digest: str
    trained: Mapping[str, torch.Tensor]


def origin_of(model: ModelConfig, digest: str) -> Origin:
    """Of a run with this section of the recipe, which found `base_digest(model.path)` to be `digest`.

    Raises:
        ModelError: it went on from an export that is not there any more, or changed.
    """
    export = read_export(model.path)
    if export is None:
        path = str(Path(model.path).resolve()) if Path(model.path).is_dir() else model.path
        return Origin(model.model_copy(update={"path": path}), digest, {})
    if (found := base_digest(model.path)) != digest:
        raise ModelError(
            "the export that this run began from has changed", where={"path": model.path}, got=found, expected=digest
        )
    return Origin(model.model_copy(update={"path": export.base}), export.base_digest, export.trained())


def is_saved_whole(model: ModelConfig) -> bool:
    """Whether a run's model is exported with all of its weights: without adapters, or on a base that exists nowhere."""
    return not model.parts.have_adapters or (model.adapters == "merge" and read_export(model.path) is not None)


def read_export(path: str | Path) -> Export | None:
    """The export with adapters in a folder; None for any other model.

    Raises:
        ModelError: an export of another version, or one that cannot be read.
    """
    file = Path(path) / EXPORT_FILE
    if not file.is_file() or not (Path(path) / ADAPTER_FILE).is_file():
        return None
    try:
        content = json.loads(file.read_text())
        if content["version"] != VERSION:
            raise ModelError(
                "an export of another format version", where={"file": file}, got=content["version"], expected=VERSION
            )
        return Export(Path(path), ModelConfig.model_validate(content["model"]), content["base_digest"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(
            "this file of an export cannot be read", where={"file": file}, got=f"{type(error).__name__}: {error}"
        ) from None


def base_digest(path: str) -> str:
    """sha256 over the weight files of a local model folder; for a hub name, of the name.

    Checkpoints and exports leave frozen weights out, so whoever goes on from one must start from the same base: this
    proves it. For a folder with adapters its own base counts as well.
    """
    folder = Path(path)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(path.encode())
        return digest.hexdigest()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            for block in iter(lambda: content.read(1 << 20), b""):
                digest.update(block)
    if export := read_export(folder):
        digest.update(export.base_digest.encode())
    return digest.hexdigest()


def wrapped_name(name: str) -> str:
    """A weight's name in peft's files as that in the model with peft's wrapper."""
    head, mark, tail = name.rpartition(f".{ADAPTER_MARK}")
    if not mark:
        return name
    kind, dot, rest = tail.partition(".")  # "A.weight"; DoRA's magnitude has no ".weight" in files
    return f"{head}{mark}{kind}.{_ADAPTER_NAME}{dot or '.'}{rest or 'weight'}"


def file_name(name: str) -> str:
    """The reverse: a trained parameter's name in the model, with or without the wrapper, as peft's files have it."""
    own = PEFT_PREFIX + own_name(name)
    if ADAPTER_MARK not in own:
        return own
    own = own.replace(f".{_ADAPTER_NAME}.", ".")
    return own.removesuffix(".weight") if "lora_magnitude_vector" in own else own


def peft_config_of(config: ModelConfig, names: Iterable[str]) -> PeftLoraConfig:
    """What peft needs to know of trained weights with these names in the model.

    What was trained in full is named by the modules that hold it. A weight that the model itself holds, in no module,
    cannot be named: `peft` leaves it out, `load_exported` does not.
    """
    names = list(names)
    return adapters_of(
        config.lora,
        sorted(_adapted_layers(names)),
        modules_to_save=modules_in_full(names) or None,
        base_model_name_or_path=config.path,
        inference_mode=True,
    )


def modules_in_full(names: Iterable[str]) -> list[str]:
    """The modules that hold weights trained in full, of trained weights with these names.

    A module of which one weight was trained stands for all modules inside it.
    """
    holders = {own_name(name).rpartition(".")[0] for name in names if ADAPTER_MARK not in name} - {""}
    return sorted(each for each in holders if not any(each.startswith(f"{other}.") for other in holders))


def put_weights(model: torch.nn.Module, values: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy `values` into a model's parameters and buffers of these names.

    Raises:
        ModelError: the model has no weight of a name, or one of another shape; `source` is where values come from.
    """
    places = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    for name, value in values.items():
        place = places.get(name)
        if place is None or place.shape != value.shape:
            raise ModelError(
                "there is a weight that the model has no place for",
                where={"of": source, "weight": name},
                got=tuple(value.shape),
                expected="no such weight" if place is None else tuple(place.shape),
            )
        with torch.no_grad():
            place.copy_(value)


def _adapter_settings(config: PeftLoraConfig, names: Iterable[str]) -> dict[str, Any]:
    """What two sets of adapters must have in common for one to go on as the other; `names`: of all their weights."""
    keys = ("r", "lora_alpha", "use_dora", "use_rslora")
    return {"layers": frozenset(_adapted_layers(names)), **{key: getattr(config, key) for key in keys}}


def _adapted_layers(names: Iterable[str]) -> set[str]:
    """peft's own list of them may be shortened to the ends of their names."""
    return {own_name(name).partition(f".{ADAPTER_MARK}")[0] for name in names if ADAPTER_MARK in name}


def _short(value: Any) -> Any:
    return f"{len(value)} layers, such as {min(value)}" if isinstance(value, frozenset) else value
