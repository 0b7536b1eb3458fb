"""Decoding: every kind of damage ends in its state, every good format in the same sound, every policy in its cut."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from damaged_files import DAMAGED, TONE_HZ, cut, ogg_without_last_page, open_ended_flac, patched, staircase, tone, write
from prep_corpora import noise

from data_prep.audio.load import AudioOptions, Loaded, decode_flac, encode_flac, load_windows
from data_prep.audio.windows import choose_spans
from pipeline.errors import AudioError, ConfigError

OPTIONS = AudioOptions()


def sound_of(path: Path, options: AudioOptions = OPTIONS, **stretch: float) -> np.ndarray:
    (window,) = load_windows(path, options, **stretch).windows
    return window.audio


def state_of(path: Path, options: AudioOptions = OPTIONS, **stretch: float) -> str:
    with pytest.raises(AudioError) as caught:
        load_windows(path, options, **stretch)
    return caught.value.state


def assert_is_tone(audio: np.ndarray, seconds: float) -> None:
    """At 16 kHz; codecs may pad to their blocks."""
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert len(audio) == pytest.approx(seconds * 16_000, abs=400)
    middle = audio[2_000:14_000]
    assert abs(np.argmax(np.abs(np.fft.rfft(middle))) * 16_000 / 12_000 - TONE_HZ) < 2
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.04)


FORMATS = [
    ("a.wav", {"subtype": "PCM_16"}), ("a.wav", {"subtype": "PCM_24"}), ("a.wav", {"subtype": "PCM_32"}),
    ("a.wav", {"subtype": "FLOAT"}), ("a.wav", {"subtype": "DOUBLE"}), ("a.wav", {"subtype": "PCM_U8"}),
    ("a.wav", {"subtype": "ULAW"}), ("a.wav", {"subtype": "ALAW"}), ("a.wav", {"subtype": "MS_ADPCM"}),
    ("a.wav", {"format": "WAVEX", "subtype": "PCM_24"}), ("a.wav", {"format": "RF64"}),
    ("a.wav", {"format": "WAV", "endian": "BIG"}), ("a.flac", {"subtype": "PCM_16"}), ("a.flac", {"subtype": "PCM_24"}),
    ("a.ogg", {"subtype": "VORBIS"}), ("a.opus", {"format": "OGG", "subtype": "OPUS"}), ("a.mp3", {}), ("a.w64", {}),
    ("a.aiff", {}), ("a.aiff", {"subtype": "FLOAT"}), ("a.au", {}), ("a.caf", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_the_same_sound(tmp_path: Path, name: str, how: dict[str, str], channels: int) -> None:
    path = write(tmp_path / name, tone(1.0, 48_000, channels), 48_000, **how)
    loaded = load_windows(path, OPTIONS)
    assert_is_tone(loaded.windows[0].audio, 1.0)
    assert loaded.duration_s == pytest.approx(1.0, abs=0.05)
    assert (loaded.sample_rate_hz, loaded.channels) == (48_000, channels)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_every_sample_rate(tmp_path: Path, rate_hz: int, suffix: str) -> None:
    assert_is_tone(sound_of(write(tmp_path / f"a{suffix}", tone(1.0, rate_hz), rate_hz)), 1.0)


@pytest.mark.parametrize("channels", [3, 4, 6, 8])
@pytest.mark.parametrize(("suffix", "how"), [(".wav", {"subtype": "PCM_24"}), (".flac", {}), (".wav", {})])
def test_many_channels(tmp_path: Path, channels: int, suffix: str, how: dict[str, str]) -> None:
    assert_is_tone(sound_of(write(tmp_path / f"a{suffix}", tone(1.0, 32_000, channels), 32_000, **how)), 1.0)


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
def test_channels_are_averaged_or_the_first_is_taken(tmp_path: Path, subtype: str) -> None:
    samples = noise(0.5, channels=3, seed=1)
    path = write(tmp_path / "a.wav", samples, subtype=subtype)
    one_step = 1 / 32768
    np.testing.assert_allclose(sound_of(path), samples.mean(axis=1), atol=one_step)
    np.testing.assert_allclose(sound_of(path, AudioOptions(channels="first")), samples[:, 0], atol=one_step)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_16_bit_source_comes_back_bit_by_bit(tmp_path: Path, suffix: str) -> None:
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, 8_000).astype(np.int16)
    soundfile.write(tmp_path / f"a{suffix}", pcm, 16_000)
    audio = sound_of(tmp_path / f"a{suffix}")
    flac = encode_flac(audio, 16_000)
    assert flac == encode_flac(audio, 16_000)
    assert np.array_equal(soundfile.read(io.BytesIO(flac), dtype="int16")[0], pcm)


def test_samples_beyond_full_scale_are_clipped_not_wrapped() -> None:
    samples, rate_hz = decode_flac(encode_flac(np.array([1.7, -1.7, 0.25] * 100, np.float32), 16_000))
    assert rate_hz == 16_000
    assert samples[:3] == pytest.approx([32767 / 32768, -1.0, 0.25])
    with pytest.raises(AudioError):
        decode_flac(b"fLaC, but no more")


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_ends_in_its_state(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, state = DAMAGED[name]
    make(tmp_path / "a.wav")
    assert state_of(tmp_path / "a.wav") == state
    assert capfd.readouterr().err == "", "the console is for people"


def test_reasons_are_named(tmp_path: Path) -> None:
    for name, reason in {
        "web page": "web page",
        "json message": "JSON",
        "plain text": "text",
        "0 bytes": "0 bytes",
    }.items():
        DAMAGED[name][0](tmp_path / "a.mp3")
        with pytest.raises(AudioError, match=reason):
            load_windows(tmp_path / "a.mp3", OPTIONS)
    assert state_of(tmp_path / "none.wav") == "missing"
    assert state_of(tmp_path) == "unreadable"


def test_damaged_mp3_keeps_the_console_clean_whatever_it_is_called(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.flac", noise(2.0, 44_100), 44_100, format="MP3")
    content = bytearray(path.read_bytes())
    for at in range(5_000, len(content), 3_000):
        content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    with suppress(AudioError):
        load_windows(path, OPTIONS)
    assert capfd.readouterr().err == ""


def test_lengths_that_a_pipe_leaves_are_no_damage(tmp_path: Path) -> None:
    for length in (0xFFFFFFFF, 0x7FFFF000):
        path = patched(write(tmp_path / "a.wav", noise(1.0)), b"data", 4, struct.pack("<I", length))
        assert len(sound_of(path)) == 16_000
    trailing = write(tmp_path / "b.wav", noise(1.0))
    trailing.write_bytes(trailing.read_bytes() + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert len(sound_of(trailing)) == 16_000


@pytest.mark.parametrize("policy", ["first", "center", "split", "keep"])
def test_flac_without_a_promised_length_is_read_to_its_last_sample(tmp_path: Path, policy: Any) -> None:
    samples = noise(1.3)
    path = open_ended_flac(tmp_path / "a.flac", samples, 16_000)
    np.testing.assert_allclose(sound_of(path, AudioOptions(long_clips=policy)), samples, atol=2 / 32768)
    assert [len(w.audio) for w in load_windows(path, AudioOptions(long_clips="split", window_s=0.5)).windows] == [
        8_000, 8_000, 4_800,
    ]  # fmt: skip


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_without_end_flag_is_good(tmp_path: Path, subtype: str) -> None:
    path = ogg_without_last_page(tmp_path / "a.ogg", tone(3.5, 48_000), 48_000, subtype)
    audio = sound_of(path)
    assert 16_000 < len(audio) < 3.5 * 16_000
    assert_is_tone(audio[:16_000], 1.0)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_annotated_stretch(tmp_path: Path, suffix: str) -> None:
    silence, sound = np.zeros(44_100, np.float32), tone(1.0, 44_100)
    path = write(tmp_path / f"a{suffix}", np.concatenate([silence, sound, silence]), 44_100)
    audio = sound_of(path, start_s=1.1, end_s=1.9)
    assert len(audio) == pytest.approx(0.8 * 16_000, abs=2)
    assert np.abs(audio[:200]).max() > 0.4 and np.abs(audio[-200:]).max() > 0.4
    assert load_windows(path, OPTIONS, start_s=1.1, end_s=1.9).windows[0].start_s == pytest.approx(1.1, abs=1e-4)
    assert len(sound_of(path, start_s=1.5, end_s=99.0)) == pytest.approx(1.5 * 16_000, abs=1_000)
    assert state_of(path, start_s=0.1, end_s=0.6) == "silent"
    assert state_of(path, start_s=50.0, end_s=51.0) == "empty"
    for start_s, end_s in ((2.0, 1.0), (1.0, 1.0), (-1.0, 2.0), (float("nan"), 2.0), (0.0, float("inf"))):
        assert state_of(path, start_s=start_s, end_s=end_s) == "bad_annotation"


def seconds_heard(loaded: Loaded) -> list[list[int]]:
    """Which seconds of a staircase each window holds, by its loudness."""
    return [
        [
            round(float(np.abs(part[100:-100]).max()) * 100) - 1
            for part in np.split(window.audio, len(window.audio) // 16_000)
        ]
        for window in loaded.windows
    ]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize(
    ("policy", "stretch", "heard"),
    [
        ("first", {}, [[0, 1, 2]]),
        ("first", {"start_s": 4.0, "end_s": 9.0}, [[4, 5, 6]]),
        ("center", {}, [[4, 5, 6]]),
        ("center", {"start_s": 4.0, "end_s": 9.0}, [[5, 6, 7]]),
        ("split", {}, [[0, 1, 2], [4, 5, 6], [8, 9, 10]]),
        ("split", {"start_s": 2.0, "end_s": 10.0}, [[2, 3, 4], [5, 6, 7], [8, 9]]),
        ("split", {"start_s": 2.0, "end_s": 9.0}, [[2, 3, 4], [5, 6, 7]]),
        ("keep", {}, [list(range(11))]),
    ],
)
def test_long_clips(
    tmp_path: Path, suffix: str, policy: Any, stretch: dict[str, float], heard: list[list[int]]
) -> None:
    path = write(tmp_path / f"a{suffix}", staircase(11), 8_000)
    loaded = load_windows(path, AudioOptions(long_clips=policy, window_s=3.0, max_windows=3), **stretch)
    assert seconds_heard(loaded) == heard
    assert [round(window.start_s, 3) for window in loaded.windows] == [seconds[0] for seconds in heard]
    assert loaded.duration_s == pytest.approx(11.0, abs=0.05)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_too_long(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", noise(3.0))
    assert state_of(path, AudioOptions(long_clips="refuse", window_s=2.9)) == "too_long"
    assert state_of(path, AudioOptions(long_clips="keep", max_duration_s=2.9)) == "too_long"
    assert len(sound_of(path, AudioOptions(long_clips="refuse", window_s=3.0))) == 48_000
    assert len(sound_of(path, AudioOptions(long_clips="keep", window_s=1.0))) == 48_000
    assert len(sound_of(path, AudioOptions(window_s=2.0, max_duration_s=2.5))) == 32_000  # the limit is for `keep`


def test_silent_windows_are_left_out_unless_all_are(tmp_path: Path) -> None:
    sound, silence = tone(1.0, 8_000), np.zeros(8_000, np.float32)
    options = AudioOptions(long_clips="split", window_s=1.0, max_windows=4)
    path = write(tmp_path / "a.wav", np.concatenate([silence, sound, silence, sound]), 8_000)
    assert [window.start_s for window in load_windows(path, options).windows] == [1.0, 3.0]
    assert state_of(write(path, np.zeros(32_000, np.float32), 8_000), options) == "silent"


@pytest.mark.parametrize(
    ("length", "n_windows"), [(10, 1), (14, 1), (15, 2), (24, 2), (29, 3), (35, 4), (45, 4), (1_000, 4)]
)
def test_split_windows_are_spread_and_never_overlap(length: int, n_windows: int) -> None:
    spans = choose_spans("split", 100, 100 + length, window=10, max_windows=4, shortest=1)
    assert len(spans) == n_windows
    assert spans[0][0] == 100 and spans[-1][1] <= 100 + length
    assert all(5 <= last - first <= 10 for first, last in spans)
    assert all(spans[i][1] <= spans[i + 1][0] for i in range(len(spans) - 1))
    assert n_windows < 4 or spans[-1][1] > 100 + length - 10


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_only_what_is_needed_is_read(tmp_path: Path, suffix: str) -> None:
    """Half an hour; the bytes that a process reads are counted by the kernel."""
    block = noise(60.0, 8_000)
    with soundfile.SoundFile(tmp_path / f"a{suffix}", "w", 8_000, 1) as file:
        for _ in range(30):
            file.write(block)
    path = tmp_path / f"a{suffix}"
    before = _read_by_this_process()
    for options, starts in (
        (AudioOptions(), [0.0]),
        (AudioOptions(long_clips="center"), [885.0]),
        (AudioOptions(long_clips="split", max_windows=2), [0.0, 1770.0]),
    ):
        windows = load_windows(path, options).windows
        assert [window.start_s for window in windows] == starts
        assert all(len(window.audio) == 30 * 16_000 for window in windows)
    assert _read_by_this_process() - before < path.stat().st_size // 3


def _read_by_this_process() -> int:
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        pytest.skip("this system does not count a process' reads")


def test_absurd_promises_are_never_allocated(tmp_path: Path) -> None:
    """An Ogg whose last page says that it ends at the highest frame there is."""
    path = write(tmp_path / "a.ogg", tone(1.0, 16_000))
    content = bytearray(path.read_bytes())
    page = content.rindex(b"OggS")
    content[page + 6 : page + 14] = struct.pack("<q", 2**62)
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert len(sound_of(path)) <= 30 * 16_000
    except AudioError as error:
        assert error.state in ("truncated", "unreadable", "empty")  # its checksum is wrong too
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize(
    ("codec", "container", "rate_hz"),
    [("aac", "mp4", 44_100), ("aac", "adts", 44_100), ("libopus", "webm", 48_000)],
)
@pytest.mark.parametrize("policy", ["first", "center"])
def test_formats_that_only_ffmpeg_knows(tmp_path: Path, codec: str, container: str, rate_hz: int, policy: Any) -> None:
    path = _written_by_ffmpeg(tmp_path / "a.m4a", codec, container, rate_hz)
    audio = sound_of(path, AudioOptions(long_clips=policy))
    assert len(audio) == pytest.approx(2.0 * 16_000, abs=1_700)
    assert_is_tone(audio[8_000:24_000], 1.0)
    assert len(sound_of(path, AudioOptions(long_clips=policy), start_s=0.5, end_s=1.5)) == pytest.approx(16_000, abs=2)
    if container != "adts":
        assert state_of(cut(path, 0.5), AudioOptions(long_clips=policy)) in ("truncated", "unreadable")


def test_without_pyav_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _written_by_ffmpeg(tmp_path / "a.m4a", "aac", "mp4", 44_100)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match="audio-gst\\[media\\]"):
        load_windows(path, OPTIONS)
    assert len(sound_of(write(tmp_path / "a.wav", noise(1.0)))) == 16_000


def _written_by_ffmpeg(path: Path, codec: str, container: str, rate_hz: int) -> Path:
    av = pytest.importorskip("av")
    samples = np.repeat(tone(2.0, rate_hz)[None], 2, axis=0)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate_hz": 10}, {"min_duration_s": -1.0}, {"max_duration_s": 0.05}, {"silence_peak": 1.0},
        {"long_clips": "last"}, {"window_s": 0.1}, {"window_s": float("nan")}, {"max_windows": 0}, {"channels": "left"},
    ],
)  # fmt: skip
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        AudioOptions(**wrong)
    assert caught.value.where == {"option": next(iter(wrong))}


def test_errors_cross_process_borders_and_no_file_stays_open(tmp_path: Path) -> None:
    DAMAGED["half flac"][0](tmp_path / "a.flac")
    n_open = _n_open_files()
    for _ in range(5):
        with pytest.raises(AudioError) as caught:
            load_windows(tmp_path / "a.flac", OPTIONS)
    assert pickle.loads(pickle.dumps(caught.value)).state == "truncated"
    assert _n_open_files() == n_open


def _n_open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0
