"""The published names and shapes, name by name, against the model and the key map; on the meta device, no weights."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from pipeline.errors import ModelError
from pipeline.models.salmonn import SalmonnForConditionalGeneration
from pipeline.models.salmonn.keymap import beats_names, beats_state, trained_names
from tests.unit.models.salmonn import published

SIZES = published.Sizes()


def model_13b(with_beats: bool) -> SalmonnForConditionalGeneration:
    with torch.device("meta"):
        return SalmonnForConditionalGeneration(published.config_13b(with_beats=with_beats))


def shapes_of(model: torch.nn.Module) -> published.Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("with_beats", [True, False])
def test_the_model_has_the_published_tensors_and_no_other(with_beats: bool) -> None:
    assert shapes_of(model_13b(with_beats)) == published.assembled(SIZES, with_beats=with_beats)


def test_the_description_counts_what_the_papers_say() -> None:
    def millions(shapes: published.Shapes) -> float:
        return sum(torch.Size(shape).numel() for shape in shapes.values()) / 1e6

    assert millions(published.beats(SIZES)) == pytest.approx(90.5, abs=1)  # BEATs: 90 M
    whole = published.assembled(SIZES)
    whisper = {name: shape for name, shape in whole.items() if ".whisper." in name}
    llm = {name: shape for name, shape in whole.items() if "language_model" in name or "lm_head" in name}
    assert millions(whisper) == pytest.approx(
        637, abs=2
    )  # half of large-v2's 1550 M, less the decoder's cross-attention
    assert millions(llm) == pytest.approx(13_016, abs=1)  # Llama-13B
    lora = {name: shape for name, shape in published.trained(SIZES).items() if "lora" in name}
    assert millions(lora) == pytest.approx(40 * 2 * 2 * 8 * 5120 / 1e6)


@pytest.mark.parametrize("with_beats", [True, False])
def test_every_trained_tensor_has_its_place(with_beats: bool) -> None:
    model = model_13b(with_beats)
    lora = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.1, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    adapted = get_peft_model(model, lora, low_cpu_mem_usage=True)
    here = {name.removeprefix("base_model.model."): t for name, t in get_peft_model_state_dict(adapted).items()}
    here |= {n: t for n, t in published.assembled(SIZES, with_beats=with_beats).items() if ".aligner." in n}
    shapes = {name: tuple(getattr(tensor, "shape", tensor)) for name, tensor in here.items()}

    wanted = published.trained(SIZES, with_beats=with_beats)
    names = trained_names(wanted)
    assert {names[name]: shape for name, shape in wanted.items()} == shapes
    assert len(set(names.values())) == len(names)


def test_names_of_adapters_without_an_adapter_s_name_are_the_same() -> None:
    name = "llama_model.base_model.model.model.layers.7.self_attn.v_proj.lora_B.{}weight"
    both = trained_names([name.format("default."), name.format("")])
    assert set(both.values()) == {"model.language_model.layers.7.self_attn.v_proj.lora_B.weight"}


def test_buffers_are_known_and_of_no_use() -> None:
    assert set(trained_names(published.buffers(SIZES)).values()) == {None}


def test_every_tensor_of_beats_has_its_place() -> None:
    wanted = published.beats(SIZES)
    names = beats_names(wanted)
    unused = {name for name, here in names.items() if here is None}
    assert unused == {"predictor.weight", "predictor.bias"}
    prefix = "model.encoder.beats."
    expected = {n.removeprefix(prefix): s for n, s in published.assembled(SIZES).items() if n.startswith(prefix)}
    got = {here: wanted[name] for name, here in names.items() if here is not None and not name.endswith("weight_g")}
    assert got == expected
    sources = sorted(name for name, here in names.items() if here == "relative_attention_bias.weight")
    assert len(sources) == 12


def test_an_unknown_name_is_an_error_that_lists_it() -> None:
    with pytest.raises(ModelError, match=r"speech_Qformer\.bert\.encoder\.layer\.0\.output\.dense\.weight"):
        trained_names([*published.trained(SIZES), "speech_Qformer.bert.encoder.layer.0.output.dense.weight"])
    with pytest.raises(ModelError, match=r"encoder\.layers\.0\.fc3\.weight"):
        beats_names(["encoder.layers.0.fc3.weight"])


def test_the_convolution_s_weight_is_its_direction_times_its_norm() -> None:
    torch.manual_seed(0)
    weight_v, weight_g = torch.randn(6, 3, 4), torch.rand(1, 1, 4) + 0.5
    state = beats_state({"encoder.pos_conv.0.weight_g": weight_g, "encoder.pos_conv.0.weight_v": weight_v})
    for place in range(4):
        direction = weight_v[:, :, place] / weight_v[:, :, place].square().sum().sqrt()
        torch.testing.assert_close(state["pos_conv.weight"][:, :, place], direction * weight_g[0, 0, place])
    with pytest.raises(ModelError, match="weight_g"):
        beats_state({"encoder.pos_conv.0.weight_v": weight_v})


def test_layers_with_biases_of_their_own_are_refused() -> None:
    name = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
    shared = torch.randn(8, 2)
    assert list(beats_state({name.format(0): shared, name.format(1): shared.clone()})) == [
        "relative_attention_bias.weight"
    ]
    with pytest.raises(ModelError, match="of their own"):
        beats_state({name.format(0): shared, name.format(1): shared + 1})
