"""The model card of an exported model: what the run's own files say of it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from pipeline.config import Recipe

_LOADING = """```python
from pipeline.models.reload import load_exported

model, processor = load_exported(FOLDER)
```

`gst generate --model FOLDER --audio clip.wav --question "What do you hear?"` answers questions about audio files;
`gst train -c RECIPE model.path=FOLDER` trains on, and `gst eval` scores it."""


@dataclass(frozen=True)
class Which:
    """Which of a run's weights.

    Attributes:
        step: that they are of.
        kind: `trained`, or the average that they are, by its name in the recipe.
        best: the metric by which this step was chosen, if it was.
    """

    step: int
    kind: str
    best: str | None = None


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        base, base_digest: of the whole model that the run's weights are trained on.
        began_from: export with adapters for that model which the run went on from, if it did.
        is_whole: all weights are in the folder, adapters merged.
        run: `run.json`.
        datasets: test scores of these very weights as in `result.json`; None where they were not tested.
    """

    recipe: Recipe
    base: str
    base_digest: str
    began_from: str | None
    which: Which
    is_whole: bool
    run: Mapping[str, Any]
    datasets: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """What `export.json` says of them."""
        run = {key: self.run.get(key) for key in ("run_id", "arm", "seed", "config_digest")}
        return {"run": run, "weights": asdict(self.which), "began_from": self.began_from}


def model_card(facts: CardFacts) -> str:
    """README.md with the header that model hubs read."""
    header: dict[str, Any] = {"pipeline_tag": "audio-text-to-text", "tags": ["audio", "audio-gst"]}
    if not facts.is_whole:
        header |= {"library_name": "peft", "base_model": facts.base}
    sections = {
        "Base model": _base(facts),
        "Weights": _weights(facts),
        "Training": _training(facts),
        "Data": _data(facts.run),
        "Test scores": _scores(facts.datasets),
        "Use": _LOADING + _peft(facts),
    }
    title = f"# {facts.recipe.arm}, seed {facts.recipe.train.seed}"
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{title}\n\n{body}\n"


def _base(facts: CardFacts) -> str:
    text = f"`{facts.base}`, sha256 of its weights `{facts.base_digest}`."
    if facts.began_from is None:
        return text
    return f"{text} The run went on from adapters for it, exported to `{facts.began_from}`."


def _weights(facts: CardFacts) -> str:
    model = facts.recipe.model
    kinds = {"trained": "as trained", "schedule_free": "the average that the schedule-free optimizer keeps"}
    which = facts.which
    kind = kinds.get(which.kind, f"an average of the weights in training (`train.averaging.kind: {which.kind}`)")
    chosen = f", the best of the run by `{which.best}`" if which.best else ""
    lines = [f"- Step {which.step}{chosen}: {kind}.", f"- Trained by part: {model.parts}."]
    if model.parts.have_adapters:
        lora = model.lora
        form = {(False, False): "LoRA", (True, False): "DoRA", (False, True): "rsLoRA", (True, True): "DoRA, rsLoRA"}
        merged = "merged into the weights" if facts.is_whole else "kept apart from the base model's weights"
        lines.append(f"- {form[lora.dora, lora.rslora]}, rank {lora.r}, alpha {lora.alpha}; {merged}.")
    lines.append(f"- Type {model.dtype}; {facts.run.get('n_trainable')} of {facts.run.get('n_params')} weights learnt.")
    if facts.recipe.schedule.regime == "individual":
        lines.append("- Regime `individual` trains a model for each dataset: this is the one of the last stage.")
    return "\n".join(lines)


def _training(facts: CardFacts) -> str:
    train, schedule, run = facts.recipe.train, facts.recipe.schedule, facts.run
    version = f", affinity version `{run['affinity_version']}`" if run.get("affinity_version") else ""
    lines = [
        f"- Schedule `{schedule.regime}`{version}; budget {train.max_steps} steps of {train.global_batch} examples.",
        f"- Optimizer {train.optimizer.name}, peak rate {train.peak_lr:g}, schedule {train.lr_schedule.kind}.",
        f"- Run `{run.get('run_id')}` on {run.get('world_size')} ranks; code `{run.get('git_sha')}`, recipe "
        f"`{run.get('config_digest')}`.",
    ]
    return "\n".join(lines)


def _data(run: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {counts.get('train', 0)} | `{run['data_digests'][name][:16]}` |"
        for name, counts in run["examples"].items()
    ]
    return "\n".join(["| dataset | training examples | sha256 of its manifest |", "|---|---|---|", *rows])


def _scores(datasets: Mapping[str, Any] | None) -> str:
    if datasets is None:
        return "These weights were not tested."
    rows = [
        f"| {name} | {score['examples']} | {score['loss']:.4f} | {score['token_accuracy']:.4f} | "
        f"{score['exact_match']:.4f} |"
        for name, score in datasets.items()
        if score["examples"]
    ]
    head = ["| dataset | examples | loss | token accuracy | exact match |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _peft(facts: CardFacts) -> str:
    if facts.is_whole:
        return "\n\nIt is an ordinary `from_pretrained` folder of `transformers` too."
    return (
        "\n\nOn the base model above, `peft` loads the folder as well: "
        "`PeftModel.from_pretrained(base, folder)`; `modules_to_save` holds what was trained in full beside adapters."
    )
