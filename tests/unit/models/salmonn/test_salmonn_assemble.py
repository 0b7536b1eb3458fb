"""`gst model salmonn` from small pieces in the published formats: what of them is where, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from typer.testing import CliRunner

from pipeline.cli.model import app
from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_model, load_processor
from pipeline.models.salmonn.assemble import assemble
from pipeline.models.salmonn.keymap import trained_names
from pipeline.types import Example
from tests.unit.models.salmonn import published

RATE_HZ = 16_000
VOCAB = 259  # <unk>, <s>, </s> and the bytes
SIZES = published.small(VOCAB)


def random_tensors(shapes: published.Shapes, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def llama_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whisper, a Llama in half precision, BEATs and SALMONN's checkpoint, as they are published but small."""
    place, s = tmp_path_factory.mktemp("pieces"), SIZES
    torch.manual_seed(0)
    layers: dict[str, Any] = {"encoder_layers": s.w_layers, "decoder_layers": 1, "encoder_attention_heads": 2}
    inner: dict[str, Any] = {"encoder_ffn_dim": s.w_inner, "decoder_ffn_dim": s.w_inner, "decoder_attention_heads": 2}
    tokens: dict[str, Any] = {
        "vocab_size": 9,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    whisper = WhisperConfig(d_model=s.w_width, max_source_positions=s.w_frames, **tokens, **layers, **inner)
    WhisperModel(whisper).save_pretrained(place / "whisper")
    WhisperFeatureExtractor(chunk_length=2).save_pretrained(place / "whisper")
    llama = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=s.l_width,
        intermediate_size=s.l_inner,
        num_hidden_layers=s.l_layers,
        num_attention_heads=2,
    )
    LlamaForCausalLM(llama).half().save_pretrained(place / "llm")
    llama_tokenizer().save_pretrained(place / "llm")
    beats = random_tensors(published.beats(s), 1)
    for name in beats:
        if "relative_attention_bias" in name:
            beats[name] = beats["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    torch.save({"cfg": published.beats_cfg(s), "model": beats}, place / "beats.pt")
    for with_beats, name in ((True, "salmonn.pth"), (False, "speech.pth")):
        state = random_tensors(published.trained(s, with_beats=with_beats) | published.buffers(s), 2)
        torch.save({"model": state, "epoch": 3, "scaler": None}, place / name)
    return {path.stem: path for path in place.iterdir()}


def put_together(pieces: dict[str, Path], out: Path, **changes: Any) -> Any:
    kwargs: dict[str, Any] = {"beats": pieces["beats"], **changes}
    checkpoint = kwargs.pop("checkpoint", pieces["salmonn"])
    return assemble(str(pieces["whisper"]), str(pieces["llm"]), checkpoint, out, **kwargs)


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_every_tensor_is_where_it_belongs(pieces: dict[str, Path], tmp_path: Path) -> None:
    report = put_together(pieces, tmp_path / "whole")
    model: Any = load_model(ModelConfig(path=str(tmp_path / "whole"), parts={"llm": "full", "encoder": "full"}))
    got = model.state_dict()
    assert {n: tuple(t.shape) for n, t in got.items()} == published.assembled(SIZES)
    state = load(pieces["salmonn"])["model"]
    for name, here in trained_names(state).items():
        if here is not None and ".lora_" not in here:
            assert torch.equal(got[here], state[name]), name
    whisper = WhisperModel.from_pretrained(pieces["whisper"]).encoder.state_dict()
    assert all(torch.equal(got[f"model.encoder.whisper.{name}"], tensor) for name, tensor in whisper.items())
    assert report.adapters == 4 * SIZES.l_layers and set(report.unused) == set(published.buffers(SIZES))
    assert report.trained == len(published.trained(SIZES)) - report.adapters
    assert report.parameters == sum(tensor.numel() for tensor in got.values())


def test_all_weights_are_stored_as_told(pieces: dict[str, Path], tmp_path: Path) -> None:
    put_together(pieces, tmp_path / "whole", dtype=torch.bfloat16)
    (file,) = (tmp_path / "whole").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["dtype"] == "bfloat16"


def test_lora_is_in_the_weights(pieces: dict[str, Path], tmp_path: Path) -> None:
    put_together(pieces, tmp_path / "whole", lora_alpha=20.0)
    got = load_model(ModelConfig(path=str(tmp_path / "whole"), parts={"llm": "full"})).state_dict()
    llm = LlamaForCausalLM.from_pretrained(pieces["llm"]).state_dict()
    state = load(pieces["salmonn"])["model"]
    for name, before in llm.items():
        here = "lm_head.weight" if name == "lm_head.weight" else name.replace("model.", "model.language_model.", 1)
        expected = before.float()
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            lora = "llama_model.base_model.model." + name.removesuffix("weight") + "lora_{}.default.weight"
            expected = expected + 20 / 4 * state[lora.format("B")] @ state[lora.format("A")]
            assert not torch.allclose(expected, before.float(), atol=1e-2)
        torch.testing.assert_close(got[here][: len(before)].float(), expected, rtol=1e-3, atol=1e-3)
        if len(got[here]) > len(before):  # tokens for padding and audio
            assert len(got[here]) == VOCAB + 2
            mean = before.float().mean(0).expand(2, -1)
            torch.testing.assert_close(got[here][VOCAB:], mean, rtol=1e-3, atol=1e-3)


def test_the_folder_answers(pieces: dict[str, Path], tmp_path: Path) -> None:
    put_together(pieces, tmp_path / "whole")
    processor = load_processor(str(tmp_path / "whole"))
    assert processor.tokenizer.convert_tokens_to_ids(["[PAD]", "<SpeechHere>"]) == [VOCAB, VOCAB + 1]
    assert processor.audio_length == 5  # 100 frames of 2 s, 17 of them a window
    encode = AnswerEncoder(processor)
    audio = np.sin(np.arange(RATE_HZ, dtype=np.float32) / 5)
    batch = encode([Example("a", "d", audio, RATE_HZ, "What?", "A tone.")])
    ids = batch["input_ids"][0].tolist()
    # This tokenizer, as SentencePiece, puts a space before whatever stands alone: a letter is a token.
    assert ids[0] == 1 and processor.tokenizer.decode(ids[1:16]) == " USER: <Speech>"
    assert ids[16:21] == [VOCAB + 1] * 5 and processor.tokenizer.decode(ids[21:31]) == " </Speech>"
    model = load_model(ModelConfig(path=str(tmp_path / "whole"))).eval()
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits).all()


def test_without_beats(pieces: dict[str, Path], tmp_path: Path) -> None:
    put_together(pieces, tmp_path / "whole", checkpoint=pieces["speech"], beats=None)
    model = load_model(ModelConfig(path=str(tmp_path / "whole"), parts={"llm": "full"}))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == published.assembled(SIZES, with_beats=False)


def changed(pieces: dict[str, Path], out: Path, change: Any) -> Path:
    whole = load(pieces["salmonn"])
    change(whole["model"])
    torch.save(whole, out)
    return out


def test_what_is_missing_or_left_over_is_listed(pieces: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)left over: model.aligner.ln_audio.bias.*--beats"):
        put_together(pieces, tmp_path / "whole", beats=None)
    lacking = changed(pieces, tmp_path / "a.pth", lambda state: state.pop("speech_llama_proj.bias"))
    with pytest.raises(ModelError, match=r"1 missing: model.aligner.projection.bias"):
        put_together(pieces, tmp_path / "whole", checkpoint=lacking)
    odd = changed(pieces, tmp_path / "b.pth", lambda state: state.update({"video_proj.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"not known(?s:.*)video_proj.weight"):
        put_together(pieces, tmp_path / "whole", checkpoint=odd)
    wide = changed(pieces, tmp_path / "c.pth", lambda state: state.update({"ln_speech.weight": torch.zeros(17)}))
    with pytest.raises(ModelError, match=r"of another shape: model.aligner.ln_speech.weight \[17\] for \[16\]"):
        put_together(pieces, tmp_path / "whole", checkpoint=wide)
    half = "llama_model.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"
    broken = changed(pieces, tmp_path / "d.pth", lambda state: state.pop(half))
    with pytest.raises(ModelError, match=r"(?s)LoRA.*layers.1.self_attn.v_proj"):
        put_together(pieces, tmp_path / "whole", checkpoint=broken)
    less = changed(
        pieces, tmp_path / "e.pth", lambda state: [state.pop(n) for n in list(state) if ".1.self_attn.v" in n]
    )
    with pytest.raises(ModelError, match=r"(?s)LoRA.*layers.1.self_attn.v_proj"):
        put_together(pieces, tmp_path / "whole", checkpoint=less)
    assert not (tmp_path / "whole").exists()


def test_what_cannot_be_read_is_said(pieces: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ModelError, match="not a checkpoint"):
        put_together(pieces, tmp_path / "whole", checkpoint=tmp_path / "text.pth")
    with pytest.raises(ModelError, match="cannot load a WhisperModel"):
        assemble(str(tmp_path), str(pieces["llm"]), pieces["salmonn"], tmp_path / "whole", beats=pieces["beats"])
    other = load(pieces["beats"])
    other["cfg"]["deep_norm"] = False
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="another kind of BEATs"):
        put_together(pieces, tmp_path / "whole", beats=tmp_path / "other.pt")


def test_the_command_writes_it_once(pieces: dict[str, Path], tmp_path: Path) -> None:
    words = ["salmonn", *(f"--{name}={pieces[name]}" for name in ("whisper", "llm", "beats"))]
    words += [f"--checkpoint={pieces['salmonn']}", f"--out={tmp_path / 'whole'}"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "salmonn" in done.stdout
    assert (tmp_path / "whole" / "config.json").is_file()
    with pytest.raises(ModelError, match="something in this folder already"):
        CliRunner().invoke(app, words, catch_exceptions=False)
