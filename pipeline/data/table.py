"""The clips of one dataset and split as arrays: a few bytes for each clip and example."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLIP = np.dtype(
    [
        ("shard", np.int32),
        ("audio_offset", np.int64),
        ("audio_size", np.int64),
        ("json_offset", np.int64),
        ("json_size", np.int64),
        ("duration_s", np.float32),
        ("n_qa", np.int32),
    ]
)


class ClipTable:
    """The clips of one dataset and split; examples are its (clip, question) pairs in shard order.

    Attributes:
        clip_of, question_of: [examples], each example's clip and the number of its question there.
    """

    def __init__(self, clips: NDArray[np.void], clip_ids: list[str]) -> None:
        self.clips = clips
        self.clip_ids = clip_ids
        n_qa = clips["n_qa"]
        self.clip_of: NDArray[np.int32] = np.repeat(np.arange(len(clips), dtype=np.int32), n_qa)
        first = np.cumsum(n_qa, dtype=np.int32) - n_qa
        self.question_of: NDArray[np.int32] = np.arange(len(self.clip_of), dtype=np.int32) - first[self.clip_of]

    def __len__(self) -> int:
        return len(self.clip_of)

    def locate(self, i: int) -> tuple[int, int]:
        """(clip, question) of example `i`."""
        if not 0 <= i < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        return int(self.clip_of[i]), int(self.question_of[i])

    def keep(self, examples: NDArray[np.int64]) -> None:
        """Leave only these examples, given in ascending order, and only the clips they are of."""
        used, clip_of = np.unique(self.clip_of[examples], return_inverse=True)
        self.clip_of = clip_of.astype(np.int32)
        self.question_of = self.question_of[examples]
        self.clips = self.clips[used]
        self.clip_ids = [self.clip_ids[clip] for clip in used.tolist()]
