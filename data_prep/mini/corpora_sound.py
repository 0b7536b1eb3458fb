"""Layouts of the captioned and question corpora of sound: AudioCaps, Clotho, SoundDescs, OpenAQA, WavCaps."""

from __future__ import annotations

import collections
import json
import pickle
from typing import Any

from data_prep.mini import pools
from data_prep.mini.lexicon import LEXICON
from data_prep.mini.plan import Plan
from data_prep.mini.scenes import Sound, draw_sound
from data_prep.mini.seeds import pick, stream
from data_prep.mini.text_sound import (
    audiocaps_caption,
    bbc_description,
    clotho_caption,
    mislabel,
    openaqa_pairs,
    wavcaps_caption,
)

AUDIOCAPS_SPLITS = {"train": 300, "val": 40, "test": 56}
CLOTHO_SPLITS = {"development": 165, "validation": 30, "evaluation": 44}
SOUNDDESCS_SPLITS = {"train": 140, "val": 26, "test": 40}
NOISE = {"audiocaps": 0.03, "clotho": 0.05, "sounddescs": 0.02, "openaqa": 0.06, "wavcaps": 0.15}
N_OPENAQA = {
    "audiocaps_train": 190,
    "audiocaps_val": 20,
    "as_2m": 240,
    "vggsound_train": 60,
    "clotho_dev": 50,
    "fsd50k_tr": 60,
}
N_WAVCAPS = {"AudioSet_SL": 290, "BBC_Sound_Effects": 250, "FreeSound": 440, "SoundBible": 80}


def ranges(plan: Plan, counts: dict[str, int]) -> dict[str, range]:
    """Consecutive pool indices for each part, at the plan's scale."""
    found, start = {}, 0
    for part, count in counts.items():
        found[part] = range(start, start + plan.n(count))
        start = found[part].stop
    return found


def lay_out_audiocaps(plan: Plan) -> None:
    """One caption a clip in train, five in val and test; CRLF."""
    number = 90_000
    for split, indices in ranges(plan, AUDIOCAPS_SPLITS).items():
        rows: list[tuple[object, ...]] = [("audiocap_id", "youtube_id", "start_time", "caption")]
        for index in indices:
            name, start_s = pools.youtube_id(plan.seed, index), pools.youtube_start_s(plan.seed, index)
            sound = pools.youtube_sound(plan.seed, index)
            rng = stream(plan.seed, "audiocaps", index)
            for _ in range(1 if split == "train" else 5):
                caption = audiocaps_caption(rng, mislabel(rng, sound, NOISE["audiocaps"]))
                rows.append((number, name, start_s, caption))
                number += 1
            plan.audio("audiocaps", f"audiocaps/audio_32000Hz/{split}/{name}_{start_s}.flac", sound)
        plan.table(f"audiocaps/dataset/{split}.csv", rows, end="\r\n")


def clotho_name(plan: Plan, index: int) -> str:
    """File names as contributors chose them, traps included: blanks, commas, entities, a blank before the suffix."""
    sound = pools.freesound_sound(plan.seed, index, n_clotho(plan))
    thing = LEXICON[sound.names[0]].thing
    shape = ("{0} {1}", "{0}_{1}", "{0}, take {1}", "20{1}.{0}", "{0} &amp; more ({1})", "{0}  {1} ", "#{1} {0}")
    return shape[index % len(shape)].format(thing, f"{index:03d}") + ".wav"


def n_clotho(plan: Plan) -> int:
    return sum(len(part) for part in ranges(plan, CLOTHO_SPLITS).values())


def lay_out_clotho(plan: Plan) -> None:
    """Five captions a clip in every split; metadata in Latin-1 and another row order than the captions."""
    for split, indices in ranges(plan, CLOTHO_SPLITS).items():
        captions: list[list[object]] = [["file_name", *(f"caption_{number}" for number in range(1, 6))]]
        metadata: list[list[object]] = []
        for index in indices:
            name = clotho_name(plan, index)
            sound = pools.freesound_sound(plan.seed, index, n_clotho(plan))
            rng = stream(plan.seed, "clotho", index)
            captions.append([name, *(clotho_caption(rng, mislabel(rng, sound, NOISE["clotho"])) for _ in range(5))])
            metadata.append(_clotho_metadata(plan, index, name, sound))
            plan.audio("clotho", f"clotho/{split}/{name}", sound)
        header: list[object] = [
            "file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license",
        ]  # fmt: skip
        plan.table(f"clotho/clotho_captions_{split}.csv", captions)
        plan.table(f"clotho/clotho_metadata_{split}.csv", [header, *reversed(metadata)], encoding="latin-1")


def _clotho_metadata(plan: Plan, index: int, name: str, sound: Sound) -> list[object]:
    number = pools.freesound_id(plan.seed, index)
    keywords = ";".join([*(word.replace("_", "-") for word in sound.names), "field-recording"])
    author = ("Zo\xeb", "J\xfcrgen", "inspector", "Ana")[index % 4]
    samples = f"[0, {round(sound.duration_s * 44_100)}]"
    return [
        name, keywords, number, f"https://freesound.org/people/{index}/sounds/{number}", samples, author,
        "http://creativecommons.org/licenses/by/3.0/",
    ]  # fmt: skip


def lay_out_sounddescs(plan: Plan) -> None:
    """Pickled dictionaries by BBC id, split lists, one folder a clip."""
    descriptions: dict[str, str] = {}
    categories: dict[str, list[str]] = collections.defaultdict(list)
    extra: dict[str, str] = collections.defaultdict(str)
    for split, indices in ranges(plan, SOUNDDESCS_SPLITS).items():
        names = []
        for index in indices:
            name, sound = pools.bbc_id(plan.seed, index), pools.bbc_sound(plan.seed, index)
            rng = stream(plan.seed, "sounddescs", index)
            heard = mislabel(rng, sound, NOISE["sounddescs"])
            descriptions[name] = bbc_description(rng, heard)
            categories[name] = [LEXICON[heard.names[0]].category, *(["None"] if index % 11 == 0 else [])]
            extra[name] = "File info: MP3, 128kbps • WAV, 44.1KHz, 16bit"
            names.append(name)
            plan.audio("sounddescs", f"sounddescs/audios/{name}/{name}.wav", sound)
        plan.text(f"sounddescs/data/SoundDescs/{split}_list.txt", "".join(f"{name}\n" for name in names))
    links = "".join(
        f"https://sound-effects-media.bbcrewind.co.uk/zip/{name.upper()}.wav.zip\n" for name in descriptions
    )
    plan.text("sounddescs/sounddescs_data/download_links.txt", links)
    for stem, value in (("descriptions", descriptions), ("categories", categories), ("extra_info", extra)):
        plan.text(f"sounddescs/sounddescs_data/{stem}.pkl", pickle.dumps(value, protocol=4))


def lay_out_openaqa(plan: Plan) -> None:
    """One JSON list of six-key rows; `audio_id` is a path on the authors' disks, the audio lies below `audio/`."""
    rows: list[dict[str, str]] = []
    for part, (folder, prefix, recordings) in _openaqa_parts(plan).items():
        for index, stem, sound in recordings:
            rng = stream(plan.seed, "openaqa", part, index)
            pairs = openaqa_pairs(rng, mislabel(rng, sound, NOISE["openaqa"]))
            # Two or three of the kinds that the clip allows, and a label question for every other clip.
            kept = [pairs[number] for number in sorted(rng.permutation(len(pairs))[: 2 + index % 2])]
            for task, question, answer in kept:
                closed = task.startswith("c") and task != "caption" and rng.random() < 0.5
                rows.append(
                    {
                        "instruction": f"Closed-ended question: {question}" if closed else question,
                        "input": "",
                        "audio_id": f"{prefix}{stem}.flac",
                        "dataset": part,
                        "task": task,
                        "output": answer,
                    }
                )
            plan.audio("openaqa", f"openaqa/audio/{folder}/{stem}.flac", sound)
    plan.text("openaqa/openaqa_5.6M.json", json.dumps(rows, indent=1, ensure_ascii=False))


_OpenAqaPart = tuple[str, str, list[tuple[int, str, Sound]]]


def _openaqa_parts(plan: Plan) -> dict[str, _OpenAqaPart]:
    """Folder, path prefix and recordings of each part; AudioCaps and Clotho clips keep their ids."""
    caps, clotho = ranges(plan, AUDIOCAPS_SPLITS), n_clotho(plan)
    new_youtube, new_freesound = caps["test"].stop, clotho
    n = {part: plan.n(count) for part, count in N_OPENAQA.items()}
    indices = {
        "audiocaps_train": caps["train"][: n["audiocaps_train"]],
        "audiocaps_val": caps["val"][: n["audiocaps_val"]],
        "as_2m": range(new_youtube, new_youtube + n["as_2m"]),
        "vggsound_train": range(new_youtube + n["as_2m"], new_youtube + n["as_2m"] + n["vggsound_train"]),
        "clotho_dev": range(min(n["clotho_dev"], plan.n(CLOTHO_SPLITS["development"]))),
        "fsd50k_tr": range(new_freesound, new_freesound + n["fsd50k_tr"]),
    }
    parts: dict[str, _OpenAqaPart] = {}
    for part, chosen in indices.items():
        if part in ("clotho_dev", "fsd50k_tr"):
            folder = part.split("_")[0]
            stems = [
                clotho_name(plan, index).removesuffix(".wav")
                if folder == "clotho"
                else pools.freesound_id(plan.seed, index)
                for index in chosen
            ]
            sounds = [pools.freesound_sound(plan.seed, index, clotho) for index in chosen]
        else:
            folder = "vggsound" if part == "vggsound_train" else "audioset"
            stems = [pools.youtube_id(plan.seed, index) for index in chosen]
            if folder == "vggsound":
                stems = [
                    f"{stem}_{pools.youtube_start_s(plan.seed, index)}"
                    for stem, index in zip(stems, chosen, strict=True)
                ]
            sounds = [pools.youtube_sound(plan.seed, index) for index in chosen]
        prefix = (
            "/data/sls/audioset/dave_version/audio/" if folder == "audioset" else f"/data/sls/scratch/{folder}/audio/"
        )
        parts[part] = (folder, prefix, list(zip(chosen, stems, sounds, strict=True)))
    return parts


def lay_out_wavcaps(plan: Plan) -> None:
    """Four JSON files, FLACs by source, and the black-lists of AudioCaps and Clotho clips."""
    files = {
        "AudioSet_SL": "as_final", "BBC_Sound_Effects": "bbc_final", "FreeSound": "fsd_final", "SoundBible": "sb_final",
    }  # fmt: skip
    for source, recordings in _wavcaps_recordings(plan).items():
        items = []
        for name, sound in recordings:
            rng = stream(plan.seed, "wavcaps", name)
            heard = mislabel(rng, sound, NOISE["wavcaps"])
            items.append(_wavcaps_item(source, name, sound, heard, wavcaps_caption(rng, heard)))
            stem = name.removesuffix(".wav")
            plan.audio("wavcaps", f"WavCaps/Audio/{source}/{stem}.flac", sound)
        content = {"num_captions_per_audio": 1, "data": items}
        plan.text(
            f"WavCaps/json_files/{source}/{files[source]}.json", json.dumps(content, indent=2, ensure_ascii=False)
        )
    _wavcaps_blacklists(plan)


def _wavcaps_recordings(plan: Plan) -> dict[str, list[tuple[str, Sound]]]:
    """(WavCaps id, recording) of each source; a few held-out clips of the other corpora are among them, as in life."""
    caps, clotho, bbc = ranges(plan, AUDIOCAPS_SPLITS), ranges(plan, CLOTHO_SPLITS), ranges(plan, SOUNDDESCS_SPLITS)
    seed, leaked = plan.seed, plan.n(4, least=1)
    n = {source: plan.n(count, least=8) for source, count in N_WAVCAPS.items()}
    youtube = [*caps["train"][-plan.n(55) :], *caps["val"][:leaked], *caps["test"][:leaked]]
    shared_with_openaqa = caps["test"].stop
    youtube += range(
        shared_with_openaqa + plan.n(120), shared_with_openaqa + plan.n(120) + n["AudioSet_SL"] - len(youtube)
    )
    effects = [*bbc["train"][: plan.n(120)], *bbc["val"][:leaked], *bbc["test"][:leaked]]
    effects += range(bbc["test"].stop, bbc["test"].stop + n["BBC_Sound_Effects"] - len(effects))
    development = clotho["development"]
    freesound = [
        *development[: round(0.89 * len(development))],
        *clotho["validation"][:leaked],
        *clotho["evaluation"][:leaked],
    ]
    freesound += range(clotho["evaluation"].stop, clotho["evaluation"].stop + n["FreeSound"] - len(freesound))
    return {
        "AudioSet_SL": [(f"Y{pools.youtube_id(seed, i)}.wav", pools.youtube_sound(seed, i)) for i in youtube],
        "BBC_Sound_Effects": [(pools.bbc_id(seed, i), pools.bbc_sound(seed, i)) for i in effects],
        "FreeSound": [
            (pools.freesound_id(seed, i), pools.freesound_sound(seed, i, clotho["evaluation"].stop)) for i in freesound
        ],
        "SoundBible": [
            (str(100 + 3 * i), draw_sound(seed, f"soundbible/{i}", pools.SOUNDBIBLE)) for i in range(n["SoundBible"])
        ],
    }


def _wavcaps_item(source: str, name: str, sound: Sound, heard: Sound, caption: str) -> dict[str, Any]:
    """The keys differ between the sources as in the release."""
    item: dict[str, Any] = {"id": name, "caption": caption, "audio": "wav_path", "duration": sound.duration_s}
    description = f"Recording of {LEXICON[heard.names[0]].thing}."
    link = {"download_link": f"https://example.org/{source.lower()}/{name}"}
    if source == "SoundBible":
        title = LEXICON[heard.names[0]].label
        item |= {"title": title, "description": description, "author": "Mike", "href": f"/{name}.html", **link}
    elif source == "FreeSound":
        tags = [LEXICON[event].label.lower() for event in heard.names]
        item |= {"file_name": f"{name}.wav", "href": f"/sounds/{name}/", "tags": tags, "description": description}
        item |= {"author": "user", **link}
    elif source == "BBC_Sound_Effects":
        item |= {"description": description, "category": str([LEXICON[heard.names[0]].category]), **link}
    return item


def _wavcaps_blacklists(plan: Plan) -> None:
    caps, clotho = ranges(plan, AUDIOCAPS_SPLITS), ranges(plan, CLOTHO_SPLITS)
    lists = {
        "blacklist_exclude_all_ac": (range(caps["test"].stop), range(clotho["evaluation"].stop)),
        "blacklist_exclude_test_ac": (caps["test"], clotho["evaluation"]),
    }
    for name, (youtube, freesound) in lists.items():
        content = {
            "AudioSet": [f"Y{pools.youtube_id(plan.seed, index)}.wav" for index in youtube],
            "FreeSound": [pools.freesound_id(plan.seed, index) for index in freesound],
        }
        plan.text(f"WavCaps/json_files/blacklist/{name}.json", json.dumps(content))
    rng = stream(plan.seed, "wavcaps", "ub8k")
    other = [f"Y{pools.youtube_id(plan.seed, 100_000 + int(rng.integers(1000)))}.wav" for _ in range(8)]
    content = {"AudioSet": other, "FreeSound": [pick(rng, ("77", "78", "79"))]}
    plan.text("WavCaps/json_files/blacklist/blacklist_exclude_ub8k_esc50_vggsound.json", json.dumps(content))
