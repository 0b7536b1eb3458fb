"""How long the longest training example is, in tokens: measured where data and processor are, assumed elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.cli.session import Data
from pipeline.config import Recipe
from pipeline.config.activations import Batch
from pipeline.config.memory import ModelShape
from pipeline.errors import AudioError, ModelError
from pipeline.models.encode import IGNORE, AnswerEncoder
from pipeline.models.load import load_processor
from pipeline.types import Example

TEXT_TOKENS, ANSWER_TOKENS = 128, 64  # of prompt and answer together, and of the answer, where nothing can be measured
ENCODER_HZ = 50.0  # positions of Whisper's encoder in a second, which others follow
SAMPLE_EXAMPLES = 256  # of each dataset
SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Longest:
    """The largest micro-batch of a recipe, and in words how it is known."""

    batch: Batch
    source: str


def longest_batch(recipe: Recipe, shape: ModelShape, data: Data | None) -> Longest:
    """A micro-batch of clips of `data.max_duration_s` with the longest question and answer of a sample."""
    seconds, rows = recipe.data.max_duration_s, recipe.train.micro_batch
    frames = round(seconds * ENCODER_HZ)
    if shape.window_frames and recipe.model.pad_audio == "window":
        frames = shape.window_frames
    try:
        encode = AnswerEncoder(load_processor(recipe.model.path))
    except ModelError:
        tokens = round(seconds * shape.audio_tokens_per_s) + TEXT_TOKENS
        assumed = f"{shape.audio_tokens_per_s:.3g} audio tokens a second and {TEXT_TOKENS} of text: assumed"
        return Longest(Batch(rows, tokens, ANSWER_TOKENS, frames), assumed)
    question, answer = _longest_text(data) if data else ("What is heard?", "word " * ANSWER_TOKENS)
    silence = np.zeros(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32)
    inputs = encode([Example("(longest)", "(none)", silence, SAMPLE_RATE_HZ, question, answer)])
    answers = int((inputs["labels"] != IGNORE).sum())
    known = "the longest question and answer of a sample" if data else f"an answer of {answers} tokens: assumed"
    return Longest(Batch(rows, inputs["input_ids"].shape[1], answers, frames), f"a clip of {seconds:g} s with {known}")


def _longest_text(data: Data) -> tuple[str, str]:
    """Question and answer with the most characters, of the first training examples of each dataset."""
    found = ("", "")
    for dataset in data.datasets:
        for number in range(min(data.sizes[dataset], SAMPLE_EXAMPLES)):
            try:
                qa = data.index.read_qa(dataset, "train", number)
            except AudioError:
                continue
            if len(qa.question) + len(qa.answer) > sum(map(len, found)):
                found = (qa.question, qa.answer)
    return found
