"""Runs on every rank, see `test_text_only.py`: rank 1 trains on the questions alone, the others with their audio."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pipeline.cli.errors import run_guarded
from pipeline.config import load_recipe
from pipeline.data.loader import TrainLoader
from pipeline.models.load import load_model
from pipeline.models.loss import answer_loss
from pipeline.runlog.events import read_event_lines
from pipeline.types import Example, MicroBatch
from tests.bench.mini_worker import hand_back, new_trainer, open_session, worker_parser

STEPS = 4  # as in the test
TEXT = ("input_ids", "attention_mask", "labels")


def work() -> None:
    """One rank's part; rank 0 hands back the loss of every step, and what the first one's must be."""
    options = worker_parser().parse_args()
    plain = load_model(load_recipe(options.recipe, options.overrides).model)  # whole, before ZeRO-3 cuts models up
    session = open_session(options)
    trainer = new_trainer(session)
    loader, encode = trainer.loader, session.encode
    assert isinstance(loader, TrainLoader)

    def encode_text(examples: list[Example]) -> dict[str, Any]:
        return encode([replace(example, audio=None) for example in examples])

    is_text = session.comm.rank == 1
    if is_text:
        loader.encode = encode_text
    start = loader.state_dict()
    sums = torch.tensor([loss_of(plain, batch, is_text) for batch in loader.next_step()], dtype=torch.float64).sum(0)
    loader.load_state_dict(start)
    total, tokens = session.comm.all_reduce_sum(sums).tolist()
    trainer.warm_up(STEPS)
    events = read_event_lines(session.events.path)[0]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    hand_back(session, {"losses": losses, "expected_first": total / tokens})


@torch.no_grad()
def loss_of(model: torch.nn.Module, batch: MicroBatch, is_text: bool) -> tuple[float, int]:
    """Loss sum and tokens without an engine; of text without the dummy clip and its tokens."""
    inputs = dict(batch.inputs)
    if is_text:
        longest = int(inputs["attention_mask"].sum(1).max())
        inputs = {name: inputs[name][:, :longest] for name in TEXT}
    labels = inputs.pop("labels")
    loss = answer_loss(model.eval()(**inputs).logits, labels)
    return loss.loss_sum, loss.tokens


if __name__ == "__main__":
    run_guarded(work)
