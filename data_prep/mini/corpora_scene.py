"""Layouts of the corpora of places: CHiME-Home, CochlScene, MACS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import yaml

from data_prep.mini import pools
from data_prep.mini.plan import Plan
from data_prep.mini.scenes import SCENES, Sound, draw_scene, draw_sound
from data_prep.mini.seeds import pick, sample, stream
from data_prep.mini.text_sound import chime_letters, macs_sentence, mislabel

NOISE = {"chime_home": 0.12, "cochlscene": 0.02}
# (refined chunks, chunks that are only in the raw list)
CHIME_CHUNKS = {"development": (50, 12), "evaluation": (40, 6)}
CHIME_SESSIONS = {
    "development": ("200110_1601", "200110_1711", "210110_0739", "220110_0731", "230110_1036"),
    "evaluation": ("230110_1501", "270110_1632"),
}
# Every so many chunks also come as 48 kHz stereo, as in the full release; all of them would be half of mini-14.
CHIME_STEREO_EVERY = 40
COCHL_SPLITS = {"Train": 364, "Val": 52, "Test": 65}
COCHL_DURATION_S = 1.4
N_MACS = 110
MACS_CITIES = ("lisbon", "lyon", "helsinki", "prague", "vienna", "milan")
MACS_SCENES = {"airport": "airport", "public_square": "public_square", "park": "Park"}
MACS_TAGS = {
    "man": "adults_talking", "woman": "adults_talking", "crowd": "adults_talking", "child": "children_voices",
    "bird": "birds_singing", "footsteps": "footsteps", "engine": "traffic_noise", "music": "music", "siren": "siren",
    "dog": "dogs_barking", "bell": "announcement_jingle", "wind": "wind_blowing",
}  # fmt: skip
# Annotators hear wrongly as often as they lack competence; their number grows with the mini corpus, not with the scale.
N_ANNOTATORS = 12


def lay_out_chime_home(plan: Plan) -> None:
    """Lists without header, one vertical CSV a chunk, four-second chunks grouped by session."""
    for part, counts in CHIME_CHUNKS.items():
        n_refined, n_raw_only = (plan.n(count) for count in counts)
        raw, refined = [], []
        for index in range(n_refined + n_raw_only):
            session = CHIME_SESSIONS[part][index % len(CHIME_SESSIONS[part])]
            name = f"CR_lounge_{session}.s{index % 3}_chunk{index}"
            sound = draw_sound(plan.seed, f"chime/{part}/{index}", pools.HOME)
            noise = NOISE["chime_home"] * (1 if index < n_refined else 3)
            _chime_chunk(plan, name, index, sound, noise)
            raw.append((index + 1, name))
            if index < n_refined:
                refined.append((index + 1, name))
            plan.audio("chime_home", f"chime_home/chunks/{name}.16kHz.wav", sound)
            if index % CHIME_STEREO_EVERY == 0:
                path = f"chime_home/chunks/{name}.48kHz.wav"
                plan.audio("chime_home", path, sound, rate_hz=48_000, stereo=True, counted=False)
        plan.table(f"chime_home/{part}_chunks_raw.csv", raw)
        plan.table(f"chime_home/{part}_chunks_refined.csv", refined)
        if part == "development":
            folds = [(number, name, number % 5) for number, name in refined]
            plan.table("chime_home/development_chunks_refined_crossval_dcase2016.csv", folds)
    plan.text("chime_home/README", "CHiME-Home layout, rendered recordings. Version 0.9.7 layout.\n")


def _chime_chunk(plan: Plan, name: str, index: int, sound: Sound, noise: float) -> None:
    rng = stream(plan.seed, "chime_home", name)
    heard = [chime_letters(mislabel(rng, sound, noise)) for _ in range(3)]
    majority = "".join(letter for letter in "cmfvpboS" if sum(letter in letters for letters in heard) >= 2)
    rows: list[tuple[str, object]] = [
        ("segmentname", name.split("_chunk")[0]),
        ("chunknumber", index),
        ("framestart", index * 64_000),
        ("chunkname", name),
    ]
    for annotator, letters in enumerate(heard, start=1):
        rows += [(f"annotation_a{annotator}", letters), (f"session_a{annotator}", f"{annotator}.0")]
    rows.append(("majorityvote", majority))
    plan.table(f"chime_home/chunks/{name}.csv", rows)


def lay_out_cochlscene(plan: Plan) -> None:
    """Folders by split and scene; contributors do not cross splits."""
    listed = []
    for number, (split, count) in enumerate(COCHL_SPLITS.items()):
        for index in range(plan.n(count, least=len(SCENES))):
            scene = SCENES[index % len(SCENES)]
            rng = stream(plan.seed, "cochlscene", split, index)
            heard = pick(rng, SCENES) if rng.random() < NOISE["cochlscene"] else scene
            sound = draw_scene(plan.seed, f"cochl/{split}/{index}", scene, COCHL_DURATION_S, (2, 12))
            user = 1000 * number + int(rng.integers(1, 40))
            name = f"{heard}_user{user:04d}_{14_000_000 + 100_000 * number + index:08d}_{index % 7:03d}.wav"
            listed.append((f"{split}/{heard}/{name}", sorted(SCENES).index(heard), split))
            plan.audio("cochlscene", f"cochlscene/{split}/{heard}/{name}", sound)
    plan.table("cochlscene/Data_info.tsv", listed, delimiter="\t")


def lay_out_macs(plan: Plan) -> None:
    """Two to five annotators a clip, each with a sentence and tags; five clips a location, stereo."""
    rng = stream(plan.seed, "macs", "annotators")
    competence = {number: round(float(rng.uniform(0.55, 0.98)), 4) for number in range(1, N_ANNOTATORS + 1)}
    entries, meta = [], [("filename", "scene_label", "identifier", "source_label")]
    for index in range(plan.n(N_MACS, least=15)):
        rng = stream(plan.seed, "macs", index)
        location = index // 5
        scene = list(MACS_SCENES)[location % 3]
        identifier = f"{MACS_CITIES[location % len(MACS_CITIES)]}-{location + 10}"
        name = f"{scene}-{identifier}-{index + 100}-a.wav"
        sound = draw_scene(plan.seed, f"tau/{index}", MACS_SCENES[scene], float(rng.uniform(2.1, 2.7)), (4, 14), 3)
        annotators = sample(rng, list(competence), int(rng.integers(2, 6)))
        notes = [_macs_note(rng, sound, annotator, 1 - competence[annotator]) for annotator in annotators]
        entries.append({"filename": name, "annotations": notes})
        meta.append((f"audio/{name}", scene, identifier, "a"))
        plan.audio("macs", f"MACS/audio/{name}", sound, stereo=True)
    plan.text("MACS/MACS.yaml", yaml.safe_dump({"files": entries}, sort_keys=False, width=1000))
    rows = [("annotator_id", "competence"), *competence.items()]
    plan.table("MACS/MACS_competence.csv", rows, delimiter="\t")
    plan.table("MACS/tau_meta/meta.csv", meta, delimiter="\t")


def _macs_note(rng: np.random.Generator, sound: Sound, annotator: int, noise: float) -> dict[str, object]:
    heard = mislabel(rng, sound, noise)
    heard = replace(heard, events=tuple(event for event in heard.events if event.name in MACS_TAGS))
    tags = sorted({MACS_TAGS[name] for name in heard.names})
    return {"annotator_id": annotator, "sentence": macs_sentence(rng, heard), "tags": tags}
