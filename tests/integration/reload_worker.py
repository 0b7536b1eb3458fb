"""A fresh process that loads exported folders and says how far their logits are from those of the trained models.

`python -m tests.integration.reload_worker CASE...`: each case is a folder with `inputs.pt`, `logits.pt` and the exports
`adapters`, `merged`. Prints one JSON object: case -> figures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForMultimodalLM

from pipeline.config.schema import ModelConfig
from pipeline.models.exported import read_export
from pipeline.models.family import resolve
from pipeline.models.load import family_at, load_base_model
from pipeline.models.reload import load_exported


def furthest(model: torch.nn.Module, case: Path) -> float:
    """The largest difference between a model's logits and those that the trained model gave."""
    inputs, logits = torch.load(case / "inputs.pt"), torch.load(case / "logits.pt")
    with torch.no_grad():
        return float((model.eval()(**inputs).logits - logits).abs().max())


def figures(case: Path) -> dict[str, Any]:
    adapters, merged = case / "adapters", case / "merged"
    export = read_export(adapters)
    assert export is not None
    base = load_base_model(ModelConfig(path=export.base))
    found = {
        "adapters": furthest(load_exported(adapters)[0], case),
        "merged": furthest(load_exported(merged)[0], case),
        "base": furthest(base, case),
        "peft": furthest(PeftModel.from_pretrained(base, str(adapters)), case),
    }
    family = family_at(str(merged))
    kind = resolve(family.model_class) if family.model_class else AutoModelForMultimodalLM
    _, info = kind.from_pretrained(str(merged), output_loading_info=True)
    return {**found, "missing": sorted(info["missing_keys"]), "unexpected": sorted(info["unexpected_keys"])}


if __name__ == "__main__":
    print(json.dumps({case: figures(Path(case)) for case in sys.argv[1:]}))
