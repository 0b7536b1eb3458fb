"""Our log-mel against that of `transformers`, clip by clip and through the processor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from pipeline.models.encode import AnswerEncoder
from pipeline.models.features import LogMel, fill
from pipeline.models.load import load_processor
from pipeline.types import ClipFeatures, Example

RATE_HZ = 16_000
WINDOW = 30 * RATE_HZ


def sound(n: int, seed: int = 0) -> NDArray[np.float32]:
    """A gliding, beating tone over noise with a silent gap: some bins far above the floor, many below it."""
    t = np.arange(n) / RATE_HZ
    tone = 0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t) * (1 + np.sin(2 * np.pi * 3 * t))
    noise = 10.0 ** -np.random.default_rng(seed).integers(2, 6) * np.random.default_rng(seed).normal(size=n)
    return np.where((t % 1.0) < 0.8, tone + noise, 0.0).astype(np.float32)


def theirs(extractor: WhisperFeatureExtractor, audio: NDArray[np.float32]) -> tuple[torch.Tensor, int]:
    got = extractor([audio], sampling_rate=RATE_HZ, return_attention_mask=True, return_tensors="pt")
    return got["input_features"][0], int(got["attention_mask"].sum())


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize(
    "n", [1, 199, 200, 201, 400, 1_601, 48_000, 333_333, WINDOW - 401, WINDOW - 200, WINDOW - 1, WINDOW, WINDOW + 999]
)
def test_values_are_those_of_transformers(bins: int, n: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=bins)
    log_mel = LogMel(extractor)
    wanted, frames = theirs(extractor, sound(n))
    got = log_mel(sound(n))
    assert got.dtype == torch.float32 and log_mel.valid_frames(n) == [frames] and frames <= max(got.shape[1], 1)
    assert (fill([got], 3000)[0] - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("level", [0.0, 1e-6, 1.0])
def test_silent_faint_and_loud_clips_have_the_floor_of_transformers(level: float) -> None:
    extractor = WhisperFeatureExtractor(feature_size=80)
    audio = level * np.ones(8_000, dtype=np.float32)
    assert (fill([LogMel(extractor)(audio)], 3000)[0] - theirs(extractor, audio)[0]).abs().max() <= 1e-5


def test_a_shorter_padding_changes_no_frame_that_is_there() -> None:
    extractor = WhisperFeatureExtractor(feature_size=80)
    log_mel = LogMel(extractor)
    clips = [sound(n, seed) for seed, n in enumerate((16_000, 4_321, 9_999))]
    longest = max(log_mel.valid_frames(len(clip))[0] for clip in clips)
    padded = fill([log_mel(clip) for clip in clips], longest)
    assert padded.shape == (3, 80, 100)
    for row, clip in zip(padded, clips, strict=True):
        assert (row - theirs(extractor, clip)[0][:, :longest]).abs().max() <= 1e-5


def test_only_frames_that_the_clip_reaches_are_computed() -> None:
    got = LogMel(WhisperFeatureExtractor(feature_size=80))(sound(RATE_HZ))
    assert got.shape[1] == 103  # 100 begin in it, the next one or two overlap it, one stands for all silence


def test_threads_get_what_one_thread_gets() -> None:
    log_mel = LogMel(WhisperFeatureExtractor(feature_size=80))
    clips = [sound(5_000 + 731 * seed, seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for got, clip in zip(pool.map(log_mel, clips), clips, strict=True):
            assert torch.equal(got, log_mel(clip))


def test_extractors_with_other_values_are_left_alone() -> None:
    assert LogMel.takes(WhisperFeatureExtractor(hop_length=320, chunk_length=10, feature_size=64))
    assert not LogMel.takes(WhisperFeatureExtractor(dither=1e-4))
    assert not LogMel.takes(WhisperFeatureExtractor(padding_value=0.5))
    assert not LogMel.takes(WhisperFeatureExtractor(padding_side="left"))
    assert not LogMel.takes(WhisperFeatureExtractor(hop_length=161))
    assert not LogMel.takes(type("Other", (WhisperFeatureExtractor,), {})())


def test_the_digest_tells_parameters_apart() -> None:
    kinds = [{}, {"feature_size": 128}, {"hop_length": 320}, {"chunk_length": 10}, {"n_fft": 512}]
    digests = [LogMel(WhisperFeatureExtractor(**kind)).digest for kind in kinds]
    assert len(set(digests)) == len(kinds) and LogMel(WhisperFeatureExtractor()).digest == digests[0]


def clips_of(lengths: tuple[int, ...]) -> list[Example]:
    return [Example(f"e{n}", "d", sound(n, n), RATE_HZ, f"What is {n}?", "a dog") for n in lengths]


def test_the_encoder_gives_the_same_with_either(random_model: Path) -> None:
    processor = load_processor(str(random_model))
    slow, fast = AnswerEncoder(processor), AnswerEncoder(processor, fast=True)
    assert slow.log_mel is None and fast.log_mel is not None
    examples = clips_of((8_000, 100, 170_000))
    for wanted, got in ((slow(examples), fast(examples)), (slow.prompts(examples), fast.prompts(examples))):
        assert list(wanted) == list(got)
        for name, tensor in wanted.items():
            assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
            if name == "input_features":
                assert (got[name] - tensor).abs().max() <= 1e-5
            else:
                assert torch.equal(got[name], tensor), name


def test_features_read_before_are_encoded_as_the_clip_itself(random_model: Path) -> None:
    encode = AnswerEncoder(load_processor(str(random_model)), fast=True)
    assert encode.log_mel is not None
    examples = clips_of((8_000, 170_000, 3_000))
    read = [
        Example(e.id, e.dataset, ClipFeatures("log_mel", encode.log_mel(e.audio).numpy(), len(e.audio)), RATE_HZ,
                e.question, e.answer)
        for e in examples
    ]  # fmt: skip
    wanted, got, half = encode(examples), encode(read), encode([read[0], *examples[1:]])
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor) and torch.equal(half[name], tensor), name


def test_a_front_that_is_not_known_keeps_its_own_extractor(random_model: Path) -> None:
    processor = load_processor(str(random_model))
    processor.feature_extractor.dither = 1e-3
    assert AnswerEncoder(processor, fast=True).log_mel is None
