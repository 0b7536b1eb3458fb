"""Every family trains under ZeRO-3 on two ranks, sketched, and learns what one rank learns from the same batches."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.tiny import write_tiny_model
from pipeline.runlog.events import read_event_lines
from tests.launching import run_ranks
from tests.parts import ALL_FULL_OVERRIDE

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]

NAMES = ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3", "voxtral", "granite_speech")
SHORT = "model.pad_audio=longest"
# Arm -> the model's family, and what differs from the recipe.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: (name, (SHORT,) if name in NAMES[:3] else ()) for name in NAMES},
    "full": ("qwen2_audio", (SHORT, ALL_FULL_OVERRIDE)),
    "full_granite": ("granite_speech", (ALL_FULL_OVERRIDE,)),
    "dora": ("audio_flamingo_3", ("model.lora.dora=true", "model.lora.rslora=true", "model.parts.encoder=lora")),
}
STEPS = 3
RECIPE = """
arm: any
out: any
model: {{path: any, lora: {{r: 4}}}}
data: {{shards: {shards}}}
train:
  max_steps: {steps}
  global_batch: 8
  micro_batch: 2
  optimizer: {{lr: 2.0e-3}}
  eval_every: 3
  checkpoint_every: 3
eval: {{val_per_dataset: 1, test_per_dataset: 1, micro_batch: 1, generate_per_dataset: 1, max_new_tokens: 2}}
sketch: {{k: 256, window_steps: 3}}
logging: {{mlflow: false}}
"""


@pytest.fixture(scope="module")
def experiments(tone_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of ranks -> experiment folder."""
    root = tmp_path_factory.mktemp("families")
    texts = [f"What is the height of tone {n}? high, low, red, blue, cat, dog" for n in range(40)]
    for name in NAMES:
        write_tiny_model(name, texts, root / name, vocab_size=330, width=32)
    recipe = root / "recipe.yaml"
    recipe.write_text(RECIPE.format(shards=tone_shards, steps=STEPS))
    runs = {arm: [f"model.path={root / name}", *overrides] for arm, (name, overrides) in RUNS.items()}
    for ranks in (1, 2):
        done = run_ranks(
            "tests.dist.families_worker", recipe, root / f"out{ranks}", json.dumps(runs), ranks=ranks, timeout_s=600
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {ranks: root / f"out{ranks}" for ranks in (1, 2)}


def events(out: Path, arm: str, kind: str) -> list[dict[str, Any]]:
    lines = read_event_lines(out / f"arms/{arm}-s0/events-rank0.jsonl")[0]
    return [event for event in lines if event["event"] == kind]


@pytest.mark.parametrize("arm", RUNS)
def test_two_ranks_learn_what_one_learns(arm: str, experiments: dict[int, Path]) -> None:
    one, two = (events(experiments[ranks], arm, "step") for ranks in (1, 2))
    assert [event["step"] for event in two] == list(range(1, STEPS + 1))
    losses = [[event["loss"] for event in run] for run in (one, two)]
    assert all(map(math.isfinite, losses[1])) and losses[1] == pytest.approx(losses[0], rel=2e-4)
    norms = [[event["grad_norm"] for event in run] for run in (one, two)]
    assert all(norm > 0 for norm in norms[1]) and norms[1] == pytest.approx(norms[0], rel=1e-2)


@pytest.mark.parametrize("arm", RUNS)
def test_gradients_are_sketched_and_answers_come(arm: str, experiments: dict[int, Path]) -> None:
    sketches = [events(experiments[ranks], arm, "sketch") for ranks in (1, 2)]
    assert len(sketches[1]) == 1 and sketches[1][0]["datasets"]
    run = experiments[2] / "arms" / f"{arm}-s0"
    results = json.loads((run / "result.json").read_text())["datasets"]
    examples = [json.loads(line) for line in (run / "examples-test.jsonl").read_text().splitlines()]
    assert len(results) == 4 and len(examples) == 4
