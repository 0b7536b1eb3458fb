"""Answers that the model gives by itself: greedy, in left-padded batches, in step on all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from pipeline.dist import Comm
from pipeline.eval.examples import Answers
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import without_wrapper
from pipeline.types import MicroBatch


def generate(
    model: torch.nn.Module,
    batches: Iterable[MicroBatch],
    encoder: AnswerEncoder,
    max_new_tokens: int,
    comm: Comm,
    device: torch.device,
) -> Answers:
    """Every example's answer, from all ranks on all ranks: the likeliest token each time, until the end or the limit.

    Under ZeRO-3 every token is a collective operation. So every rank must bring the same number of micro-batches
    (those with `counted=False` are run and left out), and a rank whose answers are complete goes on until all are.

    Args:
        model: on its engine; a `transformers` model, or adapters on one.
        batches: encoded by `encoder.prompts`.
    """
    own = without_wrapper(model)
    answers: Answers = {}
    was_training = model.training
    model.eval()
    with _greedy(own, encoder, max_new_tokens):
        for batch in batches:
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            tokens = own.generate(**inputs, synced_gpus=comm.world_size > 1)
            if batch.counted:
                texts = encoder.texts(tokens[:, inputs["input_ids"].shape[1] :])
                answers |= {(batch.dataset, name): text for name, text in zip(batch.example_ids, texts, strict=True)}
    model.train(was_training)
    return {key: text for part in comm.gather_objects(answers) for key, text in part.items()}


@contextmanager
def _greedy(model: Any, encoder: AnswerEncoder, max_new_tokens: int) -> Iterator[None]:
    """Greedy decoding and nothing else in place of the model's own settings.

    `generate` fills every setting that it is not given from the model's own, so sampling or a penalty for repetition
    that was published with a model would take part unseen. Only the tokens that end its answers are kept.
    """
    own = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=sorted({encoder.eos_token_id, *(token for token in ends if token is not None)}),
        pad_token_id=encoder.pad_token_id,
    )
    try:
        yield
    finally:
        model.generation_config = own
