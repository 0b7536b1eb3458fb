"""`gst model`: write a small random model of a real family, or SALMONN from its published pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.data.index import ShardIndex
from pipeline.errors import ModelError

app = typer.Typer(help="Models to start from.", no_args_is_help=True)


@app.command()
def tiny(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    shards: Annotated[
        list[str],
        typer.Option(help="Prepared shards, folder or URL, whose text trains the tokenizer; repeatable."),
    ],
    family: Annotated[
        str, typer.Option(help="qwen2_audio, qwen2_5_omni, audio_flamingo_3, voxtral, granite_speech ...")
    ] = "qwen2_audio",
    vocab_size: Annotated[int, typer.Option(min=300)] = 2048,
    width: Annotated[int, typer.Option(min=16)] = 128,
    beats: Annotated[bool, typer.Option(help="SALMONN: with its second encoder.")] = True,
    seed: int = 0,
) -> None:
    """Write config, random weights and processor below OUT, loadable with `from_pretrained`."""
    from pipeline.models.tiny import describe, write_tiny_model

    if (out / "config.json").exists():
        raise ModelError("there is a model in this folder already", where={"folder": out}, hint="choose another --out")
    texts = [text for place in shards for text in train_texts(place)]
    write_tiny_model(family, texts, out, vocab_size=vocab_size, width=width, beats=beats, seed=seed)
    print(f"{out}: {describe(out)}")


@app.command()
def salmonn(
    whisper: Annotated[str, typer.Option(help="Folder of Whisper, as published large-v2.")],
    llm: Annotated[str, typer.Option(help="Folder of the language model, as published Vicuna-13B v1.1.")],
    checkpoint: Annotated[Path, typer.Option(help="SALMONN's own checkpoint, such as salmonn_v1.pth.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    beats: Annotated[Path | None, typer.Option(help="BEATs' checkpoint; leave out for a model without.")] = None,
    lora_alpha: Annotated[float, typer.Option(help="Of the checkpoint's LoRA, which goes into the weights.")] = 32.0,
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(help="Store all weights so; runs with this model.dtype map them. Without it: as they come."),
    ] = None,
) -> None:
    """Put the published pieces of SALMONN together below OUT; every tensor must be wanted, and none may be missing."""
    from pipeline.models.load import DTYPES
    from pipeline.models.salmonn.assemble import assemble

    stored = DTYPES[dtype] if dtype else None
    done = assemble(whisper, llm, checkpoint, out, beats=beats, lora_alpha=lora_alpha, dtype=stored)
    print(
        f"{out}: salmonn, {done.parameters:,} parameters; of the checkpoint's tensors {done.trained} as they are, "
        f"{done.adapters} of LoRA in the language model's weights, {len(done.unused)} of no use"
    )


def train_texts(shards: Path | str) -> Iterator[str]:
    """Every question and answer of the train splits."""
    index = ShardIndex(shards, None, splits=("train",))
    for dataset in index.datasets:
        for number in range(index.n_examples(dataset, "train")):
            qa = index.read_qa(dataset, "train", number)
            yield qa.question
            yield qa.answer
