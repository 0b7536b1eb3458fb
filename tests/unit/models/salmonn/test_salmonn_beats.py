"""BEATs: its buckets and gate by hand, its layers against slow loops, its filterbank against transformers' own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from pipeline.models.salmonn.beats import BeatsAttention, BeatsModel, relative_buckets
from pipeline.models.salmonn.config import BeatsConfig
from pipeline.models.salmonn.fbank import MEAN, STD, kaldi_fbank, n_frames

TINY = BeatsConfig(
    num_mel_bins=32,
    embed_dim=12,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    conv_pos=4,
    conv_pos_groups=2,
    num_buckets=16,
    max_distance=20,
)


@pytest.fixture
def tiny() -> BeatsModel:
    torch.manual_seed(0)
    model = BeatsModel(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def test_buckets_by_hand() -> None:
    buckets = relative_buckets(30, num_buckets=16, max_distance=20)
    # 8 buckets each way: 0..3 hold one distance each, 4..7 grow from 4 to 20 by the factor 5 ** (1 / 4) = 1.495.
    by_distance = [0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7]
    assert buckets[0, 1:17].tolist() == [8 + bucket for bucket in by_distance[1:]]
    assert buckets[16, :17].tolist() == by_distance[::-1]
    assert buckets[0, 29] == 15 and buckets[29, 0] == 7  # beyond the greatest distance: the last bucket of its half


def test_buckets_as_published() -> None:
    buckets = relative_buckets(1496, num_buckets=320, max_distance=800)
    for away in (0, 1, 79, 80, 81, 200, 799, 800, 1495):
        grown = 80 + int(math.log(max(away, 1) / 80) / math.log(10) * 80)
        slow = away if away < 80 else min(grown, 159)
        assert buckets[away, 0] == slow
        assert buckets[0, away] == slow + (160 if away else 0)


def test_gate_by_hand() -> None:
    attention = BeatsAttention(TINY)
    with torch.no_grad():
        attention.grep_linear.weight.zero_()
        attention.grep_linear.bias.copy_(torch.tensor([0.5, 0.25, 0.25, 0.0, -1.0, 0.0, -0.5, -0.5]))
        attention.grep_a.copy_(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))
    update, reset = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(2.0))
    gate = attention.gate(torch.zeros(1, 2, 5, 8))
    assert gate.shape == (1, 2, 5, 1)
    for head, factor in enumerate((1.0, 3.0)):
        expected = update * (reset * factor - 1) + 2
        assert gate[0, head, :, 0].tolist() == pytest.approx([expected] * 5)


def test_attention_is_that_of_slow_loops(tiny: BeatsModel) -> None:
    attention: Any = tiny.layers[0].self_attn
    hidden, bias = torch.randn(1, 5, 16), torch.randn(2, 5, 5)
    closed = torch.tensor([False, False, False, True, False]).view(1, 1, 1, 5)
    with torch.no_grad():
        got = attention(hidden, bias, closed)[0]
        query, key, value = (p(hidden[0]).view(5, 2, 8) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        rows = []
        for i in range(5):
            heads = []
            for h in range(2):
                parts = attention.grep_linear(query[i, h]).view(2, 4).sum(1).sigmoid()
                gate = parts[0] * (parts[1] * attention.grep_a[0, h, 0, 0] - 1) + 2
                scores = [float(query[i, h] @ key[j, h] / 8**0.5 + gate * bias[h, i, j]) for j in range(5) if j != 3]
                weights = torch.tensor(scores).softmax(0)
                heads.append(sum(w * value[j, h] for w, j in zip(weights, (0, 1, 2, 4), strict=True)))
            rows.append(attention.out_proj(torch.cat(heads)))
    torch.testing.assert_close(got, torch.stack(rows), rtol=1e-5, atol=1e-5)


def test_deep_norm_scales_residuals(tiny: BeatsModel) -> None:
    layer: Any = tiny.layers[0]
    hidden, bias = torch.randn(1, 5, 16), torch.zeros(2, 5, 5)
    with torch.no_grad():
        middle = layer.self_attn_layer_norm(hidden * 4**0.25 + layer.self_attn(hidden, bias, None))
        inner = torch.nn.functional.gelu(layer.fc1(middle))
        expected = layer.final_layer_norm(middle * 4**0.25 + layer.fc2(inner))
        torch.testing.assert_close(layer(hidden, bias, None), expected)


def test_a_clip_is_heard_as_if_alone(tiny: BeatsModel) -> None:
    # 5 and 3 whole patches of time, of 2 mel patches each; the rest of the frames are left over.
    clips = [torch.randn(90, 32), torch.randn(60, 32)]
    together = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0)
    mask = torch.arange(90) < torch.tensor([[90], [60]])
    with torch.no_grad():
        encoded, own = tiny(together, mask)
        assert own is not None and own.sum(1).tolist() == [10, 6]
        for clip, row, patches in zip(clips, encoded, (10, 6), strict=True):
            alone, everything = tiny(clip.unsqueeze(0))
            assert everything is None and alone.shape == (1, patches, 16)
            torch.testing.assert_close(row[:patches], alone[0], rtol=1e-5, atol=1e-5)
            assert not row[patches:].any()


@pytest.mark.parametrize("mel_bins", [128, 32])
def test_fbank_is_that_of_transformers(mel_bins: int) -> None:
    rng = np.random.default_rng(3)
    audio = (0.3 * rng.normal(size=16_123)).astype(np.float32)
    audio[:900] = 0  # silence ends at the floor
    reference = spectrogram(
        audio * 2.0**15,
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=mel_filter_bank(
            257, mel_bins, 20.0, 8000.0, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True
        ),
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T
    got = kaldi_fbank(audio, mel_bins)
    assert got.shape == (n_frames(len(audio)), mel_bins) == (99, mel_bins)
    np.testing.assert_allclose(got.numpy(), (reference - MEAN) / (2 * STD), atol=2e-4)


def test_fbank_of_a_clip_does_not_depend_on_what_follows() -> None:
    audio = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    longer = np.concatenate([audio, np.ones(4000, dtype=np.float32)])
    alone = kaldi_fbank(audio, 128)
    torch.testing.assert_close(kaldi_fbank(longer, 128)[: len(alone)], alone)
    assert n_frames(399) == 0 and n_frames(400) == 1 and n_frames(16_000) == 98
