"""Every family's trained model is exported and computes the same in a fresh process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import Recipe
from pipeline.config.schema import ModelConfig
from pipeline.models.card import CardFacts, Which
from pipeline.models.encode import AnswerEncoder
from pipeline.models.export_files import saved_buffers, write_adapters, write_companions, write_whole_model
from pipeline.models.exported import base_digest, origin_of
from pipeline.models.family import FAMILIES
from pipeline.models.load import load_model, load_processor, trainable_parameters
from pipeline.models.tiny import write_tiny_model
from pipeline.types import Example
from tests.launching import run_command

RATE_HZ = 16_000
TEXTS = ["What do you hear?", "a dog barks", "someone speaks about the weather", "How high is the tone?", "low"]
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"r": 4, "dropout": 0.1}},
    "dora_and_encoder": {"lora": {"r": 4, "alpha": 8, "dora": True, "rslora": True}, "parts": {"encoder": "full"}},
}
CASES = [(family.name, settings) for family in FAMILIES if family.tiny for settings in SETTINGS]


@dataclass(frozen=True)
class Exported:
    """Where a case's exports lie, and what a fresh process says of them."""

    folder: Path
    figures: dict[str, Any]


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, int(seconds * RATE_HZ)).astype(np.float32) for seconds in (1.3, 2.2)]
    return [Example(str(n), "noise", clip, RATE_HZ, TEXTS[0], TEXTS[n]) for n, clip in enumerate(clips, start=1)]


def train(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-2)
    model.train()
    for _ in range(2):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def facts_of(config: ModelConfig, is_whole: bool) -> CardFacts:
    section = {"model": config, "data": {"shards": "none"}, "train": {"max_steps": 2}}
    run = {"data_digests": {"noise": "0" * 64}, "examples": {"noise": {"train": 2}}}
    recipe = Recipe.model_validate({"arm": "test", "out": "none", **section})
    return CardFacts(recipe, config.path, "0", None, Which(2, "trained"), is_whole, run, None)


def export_case(base: Path, folder: Path, settings: dict[str, Any]) -> None:
    config = ModelConfig.model_validate({"path": str(base), **settings})
    torch.manual_seed(0)
    model = load_model(config)
    inputs = AnswerEncoder(load_processor(str(base)))(examples())
    train(model, inputs)
    inputs.pop("labels")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    for form in ("adapters", "merged"):
        (folder / form).mkdir(parents=True)
        write_companions(folder / form, config, facts_of(config, form == "merged"))
    torch.save(inputs, folder / "inputs.pt")
    torch.save(logits, folder / "logits.pt")
    origin = origin_of(config, base_digest(str(base)))
    trained = {name: each.detach() for name, each in trainable_parameters(model).items()}
    write_adapters(folder / "adapters", origin, trained, saved_buffers(model), facts_of(config, False))
    write_whole_model(folder / "merged", model)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Exported]:
    root = tmp_path_factory.mktemp("exports")
    for family in {name for name, _ in CASES}:
        write_tiny_model(family, TEXTS, root / family / "base", vocab_size=320, width=32)
    folders = {case: root / case[0] / case[1] for case in CASES}
    for (family, settings), folder in folders.items():
        export_case(root / family / "base", folder, SETTINGS[settings])
    done = run_command(sys.executable, "-m", "tests.integration.reload_worker", *folders.values())
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    return {case: Exported(folder, figures[str(folder)]) for case, folder in folders.items()}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_adapters_give_the_trained_logits_to_the_bit(
    case: tuple[str, str], exported: dict[tuple[str, str], Exported]
) -> None:
    figures = exported[case].figures
    assert figures["adapters"] == 0
    assert figures["base"] > 0.01, "training changed nothing, so nothing was tested"


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_peft_alone_loads_all_that_was_trained(
    case: tuple[str, str], exported: dict[tuple[str, str], Exported]
) -> None:
    assert exported[case].figures["peft"] < 1e-6


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_merged_model_is_whole_and_computes_the_same(
    case: tuple[str, str], exported: dict[tuple[str, str], Exported]
) -> None:
    figures = exported[case].figures
    assert figures["missing"] == [] and figures["unexpected"] == []
    assert figures["merged"] < 1e-5
