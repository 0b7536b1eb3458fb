"""The espeak-ng synthesiser, through the shared library that the wheel `espeakng-loader` brings.

The library keeps state between utterances (pitch flutter, noise), so the same text would sound different the second
time. It is therefore loaded afresh for every utterance (about 3 ms) and its noise generator is seeded: the samples
depend on the arguments alone.
"""

from __future__ import annotations

import _ctypes
import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorpusError

SPEECH_RATE_HZ = 22_050
# Constants of espeak's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}
_NOISE_SEED = 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@cache
def _paths() -> tuple[str, bytes]:
    """Library file and data folder of the wheel."""
    try:
        import espeakng_loader
    except ImportError:
        raise CorpusError(
            "the speech synthesiser espeak-ng is not installed", hint="python -m pip install espeakng-loader"
        ) from None
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path()).encode()


def synthesise(text: str, *, voice: str, rate_wpm: int, pitch: int, pitch_range: int) -> NDArray[np.int16]:
    """`text` spoken, mono at `SPEECH_RATE_HZ`.

    Args:
        voice: language and variant, such as "en-us+f2".
        rate_wpm: words a minute, 80-450.
        pitch, pitch_range: 0-99, 50 is the voice's own.

    Raises:
        CorpusError: the library is absent or refuses the voice.
    """
    library_path, data_path = _paths()
    library = ctypes.CDLL(library_path)
    try:
        return _speak(library, data_path, text, voice, {"rate": rate_wpm, "pitch": pitch, "range": pitch_range})
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def _speak(library: Any, data_path: bytes, text: str, voice: str, parameters: dict[str, int]) -> NDArray[np.int16]:
    chunks: list[NDArray[np.int16]] = []

    def collect(samples: Any, n: int, _events: Any) -> int:
        if samples and n > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(n,)).copy())
        return 0

    callback = _Callback(collect)
    rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path, 0)
    if rate_hz != SPEECH_RATE_HZ:
        raise CorpusError("espeak-ng does not start", got=rate_hz, expected=SPEECH_RATE_HZ)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise CorpusError("espeak-ng has no such voice", where={"voice": voice})
    library.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))
    for name, value in parameters.items():
        library.espeak_SetParameter(_PARAMETERS[name], int(value), 0)
    content = text.encode()
    library.espeak_Synth(content, ctypes.c_size_t(len(content) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int16)
