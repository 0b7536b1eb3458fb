"""Audio files as people have them: any format, rate and number of channels that libsndfile reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pipeline.data.index import decode
from pipeline.errors import AudioError


@dataclass(frozen=True)
class AudioFile:
    """An audio file whose header is sound.

    Attributes:
        duration_s: of all of it.
    """

    path: Path
    duration_s: float

    def read(self, sample_rate_hz: int, max_duration_s: float) -> NDArray[np.float32]:
        """Mono samples [T] of its beginning, resampled as `gst-data prepare` resamples corpora.

        Raises:
            AudioError: as `pipeline.data.index.decode`.
        """
        samples, rate_hz = decode(self.path.read_bytes(), max_duration_s, {"file": self.path})
        if rate_hz == sample_rate_hz:
            return samples
        resampled: NDArray[np.float32] = soxr.resample(samples, rate_hz, sample_rate_hz, quality="HQ")
        return resampled


def open_audio_file(path: Path) -> AudioFile:
    """Look at a file's header; AudioError when there is none that libsndfile knows."""
    if not path.is_file():
        raise AudioError("there is no such audio file", state="missing", where={"file": path})
    try:
        header = soundfile.info(path)
    except soundfile.SoundFileError as error:
        raise AudioError(
            "this is not an audio file that can be read",
            where={"file": path},
            got=str(error),
            expected="wav, flac, ogg, mp3 or another format that libsndfile reads",
        ) from None
    return AudioFile(path, header.frames / header.samplerate)
