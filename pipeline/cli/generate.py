"""`gst generate`: questions about audio files, answered by a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.data.audio_file import AudioFile, open_audio_file

if TYPE_CHECKING:
    import torch

    from pipeline.models.encode import AnswerEncoder


def generate(
    model: Annotated[
        str, typer.Option(help="What `gst export` wrote, a run's folder, or any `from_pretrained` folder or hub name.")
    ],
    audio: Annotated[list[Path], typer.Option(help="An audio file; repeatable.")],
    question: Annotated[str, typer.Option(help="Asked about each file.")] = "What do you hear?",
    checkpoint: Annotated[
        str | None, typer.Option(metavar="best|last|STEP", help="Of a run: which one, in place of what it saved.")
    ] = None,
    max_duration_s: Annotated[float, typer.Option(min=0.1, help="Of each file, so much of its beginning.")] = 30.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 64,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:1; without it: a GPU where there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Answer QUESTION about every file, by the likeliest token each time."""
    files = [open_audio_file(path) for path in audio]
    import torch

    from pipeline.models.encode import AnswerEncoder

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    answering, processor = load_answering(model, checkpoint)
    answering.to(place)
    encoder = AnswerEncoder(processor)
    answers: list[dict[str, Any]] = []
    for file in files:
        text = answer(answering, encoder, file, question, max_duration_s, max_new_tokens)
        heard_s = min(file.duration_s, max_duration_s)
        answers.append({"file": str(file.path), "question": question, "answer": text, "heard_s": round(heard_s, 3)})
        if not as_json:
            cut = f" (of the first {heard_s:g} s of {file.duration_s:.0f})" if heard_s < file.duration_s else ""
            print(f"{file.path}{cut}: {text}", flush=True)
    if as_json:
        print(json.dumps(answers, indent=1))


def load_answering(model: str, checkpoint: str | None = None) -> tuple[torch.nn.Module, Any]:
    """The model and processor that `--model` names.

    Raises:
        ModelError: nothing loadable there, or not the base model that it needs.
        CheckpointError: a run without a checkpoint of this name, or no run's folder where one is asked for.
    """
    from pipeline.models.load import load_processor
    from pipeline.models.reload import load_exported

    run = Path(model)
    if checkpoint is None and not (run / "run.json").is_file():
        return load_exported(model)
    from pipeline import engine as engine_room
    from pipeline.cli.exporting import run_recipe, trained_model

    recipe = run_recipe(run)
    saved = run / "model"
    if checkpoint is None and saved.is_dir():
        return load_exported(saved)
    trained = trained_model(recipe, engine_room.find_checkpoint(run, recipe, checkpoint))
    return trained.eval().requires_grad_(False), load_processor(recipe.model.path)


def answer(
    model: torch.nn.Module,
    encoder: AnswerEncoder,
    file: AudioFile,
    question: str,
    max_duration_s: float,
    max_new_tokens: int,
) -> str:
    """The model's answer about one file. Raises what `AudioFile.read` does."""
    from pipeline.dist import SingleProcess
    from pipeline.eval import generate as generate_answers
    from pipeline.types import Example, MicroBatch

    name, rate_hz = str(file.path), encoder.sample_rate_hz
    example = Example(name, "files", file.read(rate_hz, max_duration_s), rate_hz, question, answer="")
    batch = MicroBatch("files", (name,), encoder.prompts([example]), audio_s=len(example.audio) / rate_hz)
    place = next(model.parameters()).device
    answers = generate_answers(model, [batch], encoder, max_new_tokens, SingleProcess(), place)
    return answers["files", name]
