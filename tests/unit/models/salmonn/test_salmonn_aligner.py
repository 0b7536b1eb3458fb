"""The aligner: its windows against slow loops, the two encoders side by side, and how many tokens a clip becomes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, WhisperConfig

from pipeline.models.salmonn.config import BeatsConfig, SalmonnConfig, qformer_config
from pipeline.models.salmonn.qformer import SalmonnAligner, cut_windows
from tests.unit.models.salmonn.published import config_13b


def config(**changes: Any) -> SalmonnConfig:
    values: dict[str, Any] = {
        "speech_config": WhisperConfig(d_model=8, max_source_positions=50),
        "audio_config": BeatsConfig(hidden_size=4),
        "qformer_config": qformer_config(12, hidden_size=24, intermediate_size=16),
        "text_config": LlamaConfig(hidden_size=20, num_attention_heads=2),
        "window_s": 1.0,
        **changes,
    }
    return SalmonnConfig(**values)


def aligner(**changes: Any) -> SalmonnAligner:
    torch.manual_seed(0)
    made = SalmonnAligner(config(**changes)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_as_published_a_clip_is_88_tokens_of_17_frames() -> None:
    published = config_13b()
    assert (published.window_frames, published.stride_frames, published.audio_length) == (17, 17, 88)
    assert SalmonnConfig().audio_length == 88


@pytest.mark.parametrize(("frames", "length", "stride"), [(50, 17, 17), (50, 17, 5), (34, 17, 17), (9, 4, 6)])
def test_windows_are_those_of_slow_loops(frames: int, length: int, stride: int) -> None:
    clips = torch.randn(3, frames, 5)
    slow = [clip[start : start + length] for clip in clips for start in range(0, frames - length + 1, stride)]
    torch.testing.assert_close(cut_windows(clips, length, stride), torch.stack(slow))


@pytest.mark.parametrize(("stride", "queries", "tokens"), [(0.333333, 1, 2), (0.1, 1, 7), (0.333333, 3, 6)])
def test_each_window_becomes_its_queries(stride: float, queries: int, tokens: int) -> None:
    made = aligner(second_stride=stride, num_query_tokens=queries)
    assert config(second_stride=stride, num_query_tokens=queries).audio_length == tokens
    speech, audio = torch.randn(2, 50, 8), torch.randn(2, 48, 4)
    with torch.no_grad():
        got = made(speech, audio)
        assert got.shape == (2, tokens, 20)
        both = torch.zeros(2, 50, 12)
        both[:, :, :8] = made.ln_speech(speech)
        assert made.ln_audio is not None
        both[:, :48, 8:] = made.ln_audio(audio)  # behind it zeros, not the norm of zeros
        for clip in range(2):
            for window in range(tokens // queries):
                first = window * made.stride_frames
                alone = made.qformer(
                    query_embeds=made.query_tokens, encoder_hidden_states=both[clip : clip + 1, first : first + 17]
                ).last_hidden_state
                row = got[clip, window * queries : (window + 1) * queries]
                torch.testing.assert_close(row, made.projection(alone)[0], rtol=1e-5, atol=1e-5)


def test_beats_behind_a_clip_is_zero_whatever_stands_there() -> None:
    made = aligner()
    speech, audio = torch.randn(1, 50, 8), torch.randn(1, 48, 4)
    own = torch.arange(48).unsqueeze(0) < 20
    with torch.no_grad():
        short = made(speech, audio[:, :20])
        torch.testing.assert_close(made(speech, audio, own), short)
        assert not torch.allclose(made(speech, audio), short)


def test_beats_of_more_frames_than_whisper_lengthens_whisper() -> None:
    made = aligner()
    speech, audio = torch.randn(1, 50, 8), torch.randn(1, 68, 4)
    with torch.no_grad():
        assert made(speech, audio).shape[1] == 4


def test_without_beats_whisper_alone_is_aligned() -> None:
    alone: dict[str, Any] = {
        "audio_config": None,
        "qformer_config": qformer_config(8, hidden_size=24, intermediate_size=16),
    }
    made = aligner(**alone)
    assert made.ln_audio is None
    with torch.no_grad():
        assert made(torch.randn(2, 50, 8)).shape == (2, 2, 20)
