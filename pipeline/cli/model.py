"""`gst model tiny`: write a small random model of a real family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pipeline.data.index import ShardIndex
from pipeline.errors import ModelError

app = typer.Typer(help="Models to start from.", no_args_is_help=True)


@app.callback()
def _models() -> None:
    """Keeps `tiny` a subcommand."""


@app.command()
def tiny(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    shards: Annotated[
        list[str],
        typer.Option(help="Prepared shards, folder or URL, whose text trains the tokenizer; repeatable."),
    ],
    family: Annotated[str, typer.Option(help="Model family.")] = "qwen2_audio",
    vocab_size: Annotated[int, typer.Option(min=300)] = 2048,
    width: Annotated[int, typer.Option(min=16)] = 128,
    seed: int = 0,
) -> None:
    """Write config, random weights and processor below OUT, loadable with `from_pretrained`."""
    from pipeline.models.tiny import describe, write_tiny_model

    if (out / "config.json").exists():
        raise ModelError("there is a model in this folder already", where={"folder": out}, hint="choose another --out")
    texts = [text for place in shards for text in train_texts(place)]
    write_tiny_model(family, texts, out, vocab_size=vocab_size, width=width, seed=seed)
    print(f"{out}: {describe(out)}")


def train_texts(shards: Path | str) -> Iterator[str]:
    """Every question and answer of the train splits."""
    index = ShardIndex(shards, None, splits=("train",))
    for dataset in index.datasets:
        for number in range(index.n_examples(dataset, "train")):
            qa = index.read_qa(dataset, "train", number)
            yield qa.question
            yield qa.answer
