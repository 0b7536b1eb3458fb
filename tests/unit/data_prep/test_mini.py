"""mini-14: layouts, sharing, determinism, and that the sound follows the latents."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings
from data_prep.mini import generate, lay_out
from data_prep.mini.dsp import RATE_HZ, rms
from data_prep.mini.espeak import synthesise
from data_prep.mini.events import EVENT_NAMES
from data_prep.mini.generate import MARK_NAME, STARTED_NAME
from data_prep.mini.instruments import TIMBRES, midi_hz, play
from data_prep.mini.lexicon import LEXICON
from data_prep.mini.music import GENRES
from data_prep.mini.pools import YOUTUBE
from data_prep.mini.scenes import SCENES, Event, Sound, draw_sound, render_sound
from data_prep.mini.seeds import stream
from data_prep.mini.speech import EMOTIONS, draw_speaker, draw_utterance, render_speech
from data_prep.mini.text_sound import audiocaps_caption, mislabel
from data_prep.mini.text_speech import promptspeech_attributes, textrol_attributes
from pipeline.errors import ConfigError, CorpusError

SCALE = 0.03
FOLDERS = {
    "audiocaps", "chime_home", "clotho", "cochlscene", "IEMOCAP_full_release", "jamendo_qa", "MACS", "musicnet",
    "MusicQA", "openaqa", "promptspeech", "sounddescs", "textrolspeech", "WavCaps",
}  # fmt: skip


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini") / "out"
    generate(out, scale=SCALE, jobs=1)
    return out


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> list[list[str]]:
    with open(path, encoding=encoding, newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


# ---------------------------------------------------------------------------------------------------- the whole folder


def test_all_corpora_are_there_and_counted(mini: Path) -> None:
    mark = json.loads((mini / MARK_NAME).read_text())
    assert {path.name for path in mini.iterdir() if path.is_dir()} == FOLDERS
    assert set(mark["clips"]) == set(ADAPTERS)
    n_audio = sum(1 for path in mini.rglob("*") if path.suffix in (".wav", ".flac"))
    n_stereo_copies = len(list(mini.glob("chime_home/chunks/*.48kHz.wav")))
    assert sum(mark["clips"].values()) == n_audio - n_stereo_copies


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_adapters_read_every_clip(mini: Path, name: str) -> None:
    adapter = ADAPTERS[name]
    root = adapter.find(mini)
    assert root is not None
    clips = list(adapter.clips(root, Findings()))
    assert clips
    held_out_elsewhere = {"blacklisted"} if name in ("openaqa", "wavcaps") else set()
    assert {clip.state for clip in clips} == {"ok"} | held_out_elsewhere
    assert {"train"} <= {clip.split for clip in clips}


def test_files_do_not_depend_on_workers_or_on_a_kill(mini: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    whole = digests(mini)
    settings = {key: value for key, value in json.loads((mini / MARK_NAME).read_text()).items() if key != "clips"}
    # As a killed run leaves it: the start mark, some finished files, a half-written temporary one.
    out.mkdir()
    (out / STARTED_NAME).write_text(json.dumps(settings))
    kept = sorted(path for path in whole if path.endswith((".wav", ".flac")))[::3]
    for path in kept:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes((mini / path).read_bytes())
    (out / kept[0]).with_name(".half.wav.1.host.tmp").write_bytes(b"RIFF")
    seen: list[tuple[int, int]] = []
    generate(out, scale=SCALE, jobs=2, progress=lambda done, of: seen.append((done, of)))
    assert digests(out) == whole
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_a_finished_folder_is_left_alone(mini: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in mini.rglob("*")}
    counts = generate(mini, scale=SCALE)
    assert counts == json.loads((mini / MARK_NAME).read_text())["clips"]
    assert {path: path.stat().st_mtime_ns for path in mini.rglob("*")} == before


@pytest.mark.parametrize("other", [{"seed": 15}, {"scale": 0.04}, {"alignment": True}])
def test_other_settings_ask_to_delete(mini: Path, other: dict[str, object]) -> None:
    with pytest.raises(CorpusError, match="delete"):
        generate(mini, **{"scale": SCALE, **other})  # type: ignore[arg-type]


def test_foreign_folder_and_bad_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(CorpusError, match="not empty"):
        generate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    for bad in ({"jobs": 0}, {"scale": 0.0}):
        with pytest.raises(ConfigError):
            generate(tmp_path / "new", **bad)  # type: ignore[arg-type]


def test_another_seed_gives_other_latents() -> None:
    first, second = lay_out(seed=1, scale=SCALE), lay_out(seed=2, scale=SCALE)
    shared = set(first.recordings) & set(second.recordings)
    assert shared
    assert not [key for key in shared if first.recordings[key] == second.recordings[key]]


def test_full_sizes_span_a_factor_of_twenty_and_fit() -> None:
    plan = lay_out()
    assert 3500 <= sum(plan.clips.values()) <= 5000
    refined = len(plan.texts["chime_home/development_chunks_refined.csv"].splitlines())
    # A tenth of each is held out later, so the ratio of what is trained on is the same.
    assert plan.clips["wavcaps"] / refined >= 20


# ------------------------------------------------------------------------------------------------------------ layouts


def test_audiocaps_layout(mini: Path) -> None:
    content = (mini / "audiocaps/dataset/train.csv").read_bytes()
    assert content.startswith(b"audiocap_id,youtube_id,start_time,caption\r\n")
    assert content.count(b"\n") == content.count(b"\r\n")
    table = rows(mini / "audiocaps/dataset/test.csv")[1:]
    assert len(table) == 5 * len({row[1] for row in table})
    for _, name, start, _ in table:
        assert len(name) == 11
        assert (mini / f"audiocaps/audio_32000Hz/test/{name}_{start}.flac").is_file()


def test_chime_layout(mini: Path) -> None:
    raw = rows(mini / "chime_home/development_chunks_raw.csv")
    refined = rows(mini / "chime_home/development_chunks_refined.csv")
    assert {row[1] for row in refined} < {row[1] for row in raw}
    chunk = dict(rows(mini / f"chime_home/chunks/{raw[0][1]}.csv"))
    assert list(chunk)[:4] == ["segmentname", "chunknumber", "framestart", "chunkname"]
    assert set(chunk["majorityvote"]) <= set("cmfvpboSU")
    mono = soundfile.info(mini / f"chime_home/chunks/{raw[0][1]}.16kHz.wav")
    stereo = soundfile.info(mini / f"chime_home/chunks/{raw[0][1]}.48kHz.wav")
    assert (mono.samplerate, mono.channels, mono.duration) == (16_000, 1, 4.0)
    assert (stereo.samplerate, stereo.channels, stereo.duration) == (48_000, 2, 4.0)


def test_clotho_layout(mini: Path) -> None:
    captions = rows(mini / "clotho/clotho_captions_development.csv")
    metadata = rows(mini / "clotho/clotho_metadata_development.csv", encoding="latin-1")
    assert captions[0] == ["file_name", *(f"caption_{number}" for number in range(1, 6))]
    assert {row[0] for row in captions[1:]} == {row[0] for row in metadata[1:]}
    assert [row[0] for row in captions[1:]] != [row[0] for row in metadata[1:]]
    assert all((mini / "clotho/development" / row[0]).is_file() for row in captions[1:])


def test_musicnet_labels_are_at_44100_hz(mini: Path) -> None:
    for file in mini.glob("musicnet/musicnet/train_labels/*.csv"):
        table = rows(file)
        assert table[0] == ["start_time", "end_time", "instrument", "note", "start_beat", "end_beat", "note_value"]
        audio = soundfile.info(mini / f"musicnet/musicnet/train_data/{file.stem}.wav")
        last_s = max(int(row[1]) for row in table[1:]) / 44_100
        assert audio.duration - 2 < last_s <= audio.duration
        assert {int(row[2]) for row in table[1:]} <= {timbre.program for timbre in TIMBRES.values()} - {0}


def test_macs_layout(mini: Path) -> None:
    entries = yaml.safe_load((mini / "MACS/MACS.yaml").read_text())["files"]
    competence = dict(rows(mini / "MACS/MACS_competence.csv", delimiter="\t")[1:])
    for entry in entries:
        assert (mini / "MACS/audio" / entry["filename"]).is_file()
        assert 2 <= len(entry["annotations"]) <= 5
        assert all(str(note["annotator_id"]) in competence and note["sentence"] for note in entry["annotations"])


def test_openaqa_and_sounddescs_layout(mini: Path) -> None:
    answers = json.loads((mini / "openaqa/openaqa_5.6M.json").read_text())
    assert all(
        list(row) == ["instruction", "input", "audio_id", "dataset", "task", "output"]
        and all(isinstance(value, str) for value in row.values())
        for row in answers
    )
    descriptions = pickle.loads((mini / "sounddescs/sounddescs_data/descriptions.pkl").read_bytes())
    listed = [
        name
        for split in ("train", "val", "test")
        for name in (mini / f"sounddescs/data/SoundDescs/{split}_list.txt").read_text().splitlines()
    ]
    assert sorted(listed) == sorted(descriptions)


def test_sources_are_shared_by_id_and_by_sample(mini: Path) -> None:
    def copies(name: str) -> list[Path]:
        return sorted(path for path in mini.rglob("*") if path.stem == name and path.suffix in (".flac", ".wav"))

    train = rows(mini / "audiocaps/dataset/train.csv")[1:]
    wavcaps = json.loads((mini / "WavCaps/json_files/AudioSet_SL/as_final.json").read_text())["data"]
    ids = {item["id"] for item in wavcaps}
    youtube = next(row for row in train if f"Y{row[1]}.wav" in ids)
    effects = {path.stem for path in mini.glob("WavCaps/Audio/BBC_Sound_Effects/*.flac")}
    bbc = next(name for name in sorted(effects) if (mini / f"sounddescs/audios/{name}").is_dir())
    spoken = {path.stem for path in mini.glob("promptspeech/LibriTTS/**/*.wav")}
    libritts = next(path.stem for path in sorted(mini.glob("textrolspeech/libritts/**/*.wav")) if path.stem in spoken)
    pairs = [
        [mini / f"WavCaps/Audio/AudioSet_SL/Y{youtube[1]}.flac", *copies(f"{youtube[1]}_{youtube[2]}")],
        copies(bbc),
        copies(libritts),
    ]
    for found in pairs:
        assert len(found) >= 2
        first, second = (soundfile.read(path, dtype="int16")[0] for path in found[:2])
        np.testing.assert_array_equal(first, second)


def test_held_out_clips_of_wavcaps_are_black_listed(mini: Path) -> None:
    black = json.loads((mini / "WavCaps/json_files/blacklist/blacklist_exclude_all_ac.json").read_text())
    wavcaps = json.loads((mini / "WavCaps/json_files/AudioSet_SL/as_final.json").read_text())["data"]
    held_out = {f"Y{row[1]}.wav" for split in ("val", "test") for row in rows(mini / f"audiocaps/dataset/{split}.csv")}
    leaked = held_out & {item["id"] for item in wavcaps}
    assert leaked
    assert leaked <= set(black["AudioSet"])


# ---------------------------------------------------------------------------------------------------------- alignment


def test_alignment_collection(tmp_path: Path, mini: Path) -> None:
    counts = generate(tmp_path / "base", scale=SCALE, jobs=1, alignment=True)
    native = {row["output"] for row in json.loads((mini / "openaqa/openaqa_5.6M.json").read_text())}
    for domain in ("speech", "music", "sound"):
        folder = tmp_path / "base" / f"alignment_{domain}"
        lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        assert {line["domain"] for line in lines} == {domain}
        assert {line["split"] for line in lines} == {"train", "val", "test"}
        assert len({line["id"] for line in lines}) == len(lines)
        assert len({line["audio"] for line in lines}) == counts[f"alignment_{domain}"]
        assert all(soundfile.info(folder / line["audio"]).samplerate == 16_000 for line in lines)
        assert not native & {line["answer"] for line in lines}
    assert not set(lay_out(scale=SCALE).recordings) & set(lay_out(scale=SCALE, alignment=True).recordings)


# ---------------------------------------------------------------------------------------------- sound follows latents


def test_espeak_depends_on_its_arguments_alone() -> None:
    def say(voice: str) -> np.ndarray:
        return synthesise("Seven small ships.", voice=voice, rate_wpm=170, pitch=50, pitch_range=50)

    first = say("en-us+f5")
    say("en-us+m3")
    np.testing.assert_array_equal(first, say("en-us+f5"))
    assert np.abs(first.astype(int)).max() > 3000
    with pytest.raises(CorpusError, match="no such voice"):
        say("xx-nowhere")


def test_speech_follows_its_latent() -> None:
    speaker = draw_speaker(5, "reader", "female")
    plain = replace(
        draw_utterance(5, "one", speaker, "The farmer sold three apples."),
        rate_wpm=180, pitch=0, energy_db=0.0, noise_db=-70.0, room_wet=0.0,
    )  # fmt: skip
    base = render_speech(5, plain)
    louder = render_speech(5, replace(plain, energy_db=8.0))
    assert 20 * np.log10(rms(louder) / rms(base)) == pytest.approx(8, abs=1)
    assert len(render_speech(5, replace(plain, rate_wpm=260))) < 0.85 * len(base)
    assert pitch_hz(render_speech(5, replace(plain, pitch=40))) > 1.2 * pitch_hz(base)
    assert len(render_speech(5, replace(plain, emotion="sad"))) > 1.08 * len(base)
    for emotion in EMOTIONS:
        assert np.isfinite(render_speech(5, replace(plain, emotion=emotion))).all()


def pitch_hz(signal: np.ndarray) -> float:
    """Median of the autocorrelation's best lag over loud frames."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, 1024)[::512]
    loud = frames[frames.std(axis=1) > np.median(frames.std(axis=1))]
    low, high = RATE_HZ // 500, RATE_HZ // 80
    lags = [low + int(np.argmax(np.correlate(frame, frame, "full")[1023:][low:high])) for frame in loud]
    return RATE_HZ / float(np.median(lags))


def test_pitch_conventions_conflict() -> None:
    """A woman's low voice is low for PromptSpeech, but not for TextrolSpeech, which counts Hz."""
    speaker = replace(draw_speaker(5, "reader", "female"), base_hz=195, tract=1.0)
    utterance = replace(draw_utterance(5, "one", speaker, "Again."), pitch=-18, emotion="neutral")
    assert promptspeech_attributes(utterance)["pitch"] == "low"
    assert textrol_attributes(utterance)["pitch"] == "normal"


@pytest.mark.parametrize("name", sorted(TIMBRES))
def test_instruments_are_in_tune(name: str) -> None:
    timbre = TIMBRES[name]
    midi = (timbre.low + timbre.high) // 2
    tone = play(stream(1, name), name, midi, 1.0, 0.8)
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(len(tone)), 1 << 17))
    hz = np.fft.rfftfreq(1 << 17, 1 / RATE_HZ)
    # Power at whole multiples of the nominal pitch, against the same between them.
    ratio = hz / midi_hz(midi)
    near = (np.abs(ratio - np.rint(ratio)) < 0.03) & (np.rint(ratio) >= 1)
    between = np.abs(ratio - np.rint(ratio)) > 0.3
    assert np.sum(spectrum[near] ** 2) > 20 * np.sum(spectrum[between] ** 2)


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_events_stand_above_their_bed(name: str) -> None:
    quiet = Sound("test", 1.5, "room", (), 20.0)
    event = replace(quiet, events=(Event(name, 0.0, 1.5),))
    silence, heard = render_sound(3, quiet), render_sound(3, event)
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() < 1.5
    assert rms(heard) > 3 * rms(silence)


def test_captions_name_the_events_in_order() -> None:
    rng = stream(1, "captions")
    sound = Sound("t", 2.0, "room", (Event("dog", 0, 0.9), Event("rain", 1.1, 2.0)), 20.0, "then")
    for _ in range(20):
        caption = audiocaps_caption(rng, sound).lower()
        assert 0 <= caption.index("dog") < caption.index("rain")


def test_noise_rate_is_the_stated_one() -> None:
    rng = stream(1, "noise")
    sounds = [draw_sound(1, f"noise/{index}", YOUTUBE) for index in range(400)]
    wrong = sum(mislabel(rng, sound, 0.15).events != sound.events for sound in sounds)
    assert 0.10 < wrong / len(sounds) < 0.20


def test_vocabularies_are_complete() -> None:
    assert set(LEXICON) == set(EVENT_NAMES)
    assert len(SCENES) == 13
    assert {name for genre in GENRES.values() for name in (*genre.leads, *genre.backing)} <= set(TIMBRES)
