"""What autograd keeps of a forward, per stack of transformer blocks, and of the logits.

The count is per position and block, for attention that never stores its score matrix (SDPA's fused kernels,
flash-attn); it follows what the layers of `transformers` save. Korthikanti et al. 2022 (arXiv 2205.05198, equation 2)
count the same for GPT with dropout and stored scores, which is what `eager` adds here.

Letters: `h` hidden size, `a` heads x head size, `i` intermediate size, `d` bytes of the number format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config.training import SpeedConfig

ENCODER, LANGUAGE_MODEL = "audio encoder", "language model"
CHUNK_ELEMENTS = 2**26  # as `pipeline.models.teacher` has it


@dataclass(frozen=True)
class Blocks:
    """A stack of equal transformer blocks.

    Attributes:
        name: of the part, for the table.
        attention: heads x head size.
        gated: the MLP multiplies an activated by a plain projection (SwiGLU); false: one projection, then activation.
        rms_norm: its norms compute in fp32 and keep that copy; false: LayerNorm, which keeps its input.
        norms_learn: the norms' weights learn.
        kept_inputs: input features of a block's linear layers that learn or carry adapters, each input once.
        dropped_inputs: input features of its adapters with dropout, each by itself.
        adapter_ranks: sum of its adapters' ranks.
        is_left_out: nothing in it or before it learns, so nothing is kept.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    attention: int
    heads: int
    gated: bool
    rms_norm: bool
    norms_learn: bool = False
    kept_inputs: int = 0
    dropped_inputs: int = 0
    adapter_ranks: int = 0
    is_left_out: bool = False

    def position_bytes(self, size: int) -> int:
        """Bytes that one block keeps of one position.

        Args:
            size: `d`.
        """
        norms = (
            2 * self.hidden * (4 if self.rms_norm else size) + 2 * self.norms_learn * self.rms_norm * self.hidden * size
        )
        # Query, key, value (repeated for all heads) and output, with one log-sum in fp32 for each head.
        attention = 4 * self.attention * size + 4 * self.heads
        mlp = (3 if self.gated else 1) * self.intermediate * size
        adapters = self.dropped_inputs * (size + 1) + self.adapter_ranks * size
        return norms + attention + mlp + self.kept_inputs * size + adapters


@dataclass(frozen=True)
class ActivationTerm:
    name: str
    bytes: int
    source: str


@dataclass(frozen=True)
class Batch:
    """A micro-batch at its largest.

    Attributes:
        rows: examples.
        tokens: of the longest row, audio included.
        answer_tokens: of a row, those with labels.
        encoder_positions: of the audio encoder, for one clip.
    """

    rows: int
    tokens: int
    answer_tokens: int
    encoder_positions: int


def block_terms(
    blocks: Blocks, rows: int, positions: int, size: int, *, checkpointing: bool, eager: bool
) -> Iterator[ActivationTerm]:
    """What a stack keeps for backward, or needs while it runs where nothing is kept.

    Args:
        checkpointing: only each block's input is kept, and one block is computed again at a time.
        eager: attention stores its scores.
    """
    each = rows * positions * blocks.position_bytes(size)
    if blocks.is_left_out:
        yield ActivationTerm(
            f"{blocks.name} at work", each, "nothing below it learns: one block at a time, nothing is kept"
        )
        return
    if eager:  # softmax in fp32 and its cast
        each += rows * positions * positions * blocks.heads * (4 + size)
    if checkpointing:
        inputs = rows * positions * blocks.hidden * size * blocks.layers
        yield ActivationTerm(f"activations: {blocks.name}", inputs + each, "d h per block, and one block recomputed")
    else:
        yield ActivationTerm(
            f"activations: {blocks.name}", each * blocks.layers, f"{blocks.position_bytes(size):,} bytes x {positions} "
            f"positions x {rows} rows x {blocks.layers} blocks"
        )  # fmt: skip


def logits_terms(batch: Batch, vocabulary: int, size: int, speed: SpeedConfig) -> Iterator[ActivationTerm]:
    """The output layer and the loss, at the end of forward and the beginning of backward (`models/loss.py`).

    `cross_entropy: auto` counts as torch: whether liger is there is known only where the run is.
    """
    answers = batch.rows * batch.answer_tokens
    if speed.cross_entropy in ("chunked", "liger"):
        yield ActivationTerm("loss, in parts", CHUNK_ELEMENTS * (size + 12), "(d + 12) x 2^26 logits at a time")
        return
    if not speed.answer_logits:
        whole = 2 * batch.rows * batch.tokens * vocabulary * size
        yield ActivationTerm("logits of all positions", whole, f"2 d V x {batch.rows * batch.tokens:,} positions")
    # In the model's format; in fp32 the copy, its log-softmax and the gradient.
    loss = answers * vocabulary * (size + 12)
    yield ActivationTerm("logits of answers and their loss", loss, f"(d + 12) V x {answers:,} answer tokens")
