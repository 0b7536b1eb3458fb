"""Adapters of the corpora of places: tiny copies in all their public layouts, with the defects of real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import corpora_scenes as corpora
import pytest
from corpora_scenes import CHIME_RAW_ONLY, CHIME_VOTES, COCHL_GONE, COCHL_NAMES, MACS_NAMES
from corpus_files import table, text, wav
from reading import answers, audio_name, built, read, splits_of

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings
from pipeline.errors import ConfigError, CorpusError
from pipeline.types import SPLITS

# CHiME-Home


def test_chime_home_expands_letters_and_reads_both_chunk_folders(tmp_path: Path) -> None:
    found = Findings()
    clips = built("chime_home", tmp_path, found)
    both, empty, flagged, silent, test = (
        clips[name] for name in sorted(clips, key=lambda name: int(name[name.index("_chunk") + 6 :]))
    )
    assert answers(both)["sources"] == "child speech and adult male speech"
    assert audio_name(both) == "CR_lounge_200110_1601.s0_chunk1.16kHz.wav"
    assert both.source_keys == {"session": "chime-CR_lounge_200110_1601"} and both.meta == {"labels": "cm"}
    assert answers(empty) == answers(silent) == {"sources": "No clear sound source is audible."}
    assert empty.state == silent.state == "ok" and audio_name(empty).endswith("_chunk2.48kHz.wav")
    assert flagged.state == "bad_annotation" and "U" in flagged.reason
    assert test.split == "test" and both.split == "train"
    assert answers(test)["sources"] == "video game or TV sound, percussive sound and broadband noise"
    assert found.counts["audio name"] == {"16kHz": 1, "48kHz": 4}
    assert found.counts["majority vote without a source"] == {"empty": 1, "S": 1}
    assert "chunks in development_chunks_refined.csv: expected 1946, found 4" in found.notes


def test_chime_home_yes_and_no_are_right(tmp_path: Path) -> None:
    for clip in built("chime_home", tmp_path).values():
        named = answers(clip)["sources"]
        for qa in clip.qa:
            if qa.task == "presence":
                things = [
                    thing
                    for thing in (
                        "child speech",
                        "adult male speech",
                        "adult female speech",
                        "video game or TV sound",
                        "percussive sound",
                        "broadband noise",
                        "other identifiable sound",
                    )
                    if thing in qa.question
                ]
                assert len(things) == 1
                assert qa.answer == ("yes" if things[0] in named else "no")


@pytest.mark.parametrize(
    ("vote", "state", "sources"),
    [
        ("SU", "bad_annotation", "No clear sound source is audible."),
        ("cU", "ok", "child speech"),
        (" m ", "ok", "adult male speech"),
        ("fx", "ok", "adult female speech"),
    ],
)
def test_chime_home_mixed_votes(vote: str, state: str, sources: str, tmp_path: Path) -> None:
    folder = corpora.chime_home(tmp_path)
    name = "CR_lounge_220110_0731.s8_chunk7"
    text(folder / "chunks1" / f"{name}.csv", f"\ufeffchunkname,{name}\r\nmajorityvote,{vote}\r\nlonely\r\n")
    clip = read("chime_home", tmp_path, found := Findings())[name]
    assert (clip.state, answers(clip)["sources"]) == (state, sources)
    assert (found.counts.get("letters that the corpus does not document") == {"x": 1}) == ("x" in vote)


def test_chime_home_raw_lists_are_a_choice(tmp_path: Path) -> None:
    clips = built("chime_home", tmp_path, found := Findings(), chunks="raw")
    assert list(clips) == [*(name for name, clip in clips.items() if clip.split == "train"), list(CHIME_VOTES)[3]]
    assert answers(clips[CHIME_RAW_ONLY])["sources"] == "child speech and other identifiable sound"
    assert CHIME_RAW_ONLY not in read("chime_home", tmp_path)
    assert "chunks in development_chunks_raw.csv: expected 4378, found 5" in found.notes


def test_chime_home_prefers_the_sample_rate_that_is_wished_for(tmp_path: Path) -> None:
    names = {audio_name(clip) for clip in built("chime_home", tmp_path, rate="48kHz").values()}
    assert names == {f"{name}.48kHz.wav" for name in CHIME_VOTES}


@pytest.mark.parametrize("first_fold", [0, 1])
@pytest.mark.parametrize("name", ["dcase2016", "dcase"])
def test_chime_home_folds_count_from_zero_or_one_under_either_name(name: str, first_fold: int, tmp_path: Path) -> None:
    folder = corpora.chime_home(tmp_path)
    published = folder / "development_chunks_refined_crossval_dcase2016.csv"
    rows = [line.split(",") for line in published.read_text().splitlines()]
    published.unlink()
    file = folder / f"development_chunks_refined_crossval_{name}.csv"
    table(file, [[n, chunk, int(fold) + first_fold] for n, chunk, fold in rows])
    assert set(splits_of(read("chime_home", tmp_path)).values()) == {"train", "test"}
    clips = read("chime_home", tmp_path, found := Findings(), val_fold="3")
    assert [id for id, split in splits_of(clips).items() if split == "val"] == [rows[2][1], rows[3][1]]
    assert len(clips) == 5 and f"called {2 + first_fold}" in found.facts["val"]
    # chunk1 and chunk4 are of one session.
    assert any("val shares 1 sessions with train" in note for note in found.notes)
    with pytest.raises(CorpusError, match="not so many folds") as error:
        read("chime_home", tmp_path, val_fold="5")
    assert error.value.where["file"] == file


def test_chime_home_names_what_is_wrong_with_the_folds(tmp_path: Path) -> None:
    folder = corpora.chime_home(tmp_path)
    file = folder / "development_chunks_refined_crossval_dcase2016.csv"
    with pytest.raises(ConfigError, match=r"chime_home\.val_fold"):
        read("chime_home", tmp_path, val_fold="6")
    table(file, [[0, next(iter(CHIME_VOTES))]])
    with pytest.raises(CorpusError) as error:
        read("chime_home", tmp_path, val_fold="1")
    assert error.value.where["column"] == "fold"
    table(file, [[0, "CR_lounge_unlisted.s0_chunk1", 0]])
    assert "val" not in splits_of(read("chime_home", tmp_path, found := Findings(), val_fold="1")).values()
    assert any("not in the development list" in note for note in found.notes)
    file.unlink()
    with pytest.raises(CorpusError, match=r"crossval_dcase2016\.csv or .*crossval_dcase\.csv"):
        read("chime_home", tmp_path, val_fold="1")


def test_chime_home_lists_with_stray_lines(tmp_path: Path) -> None:
    file = corpora.chime_home(tmp_path) / "development_chunks_refined.csv"
    names = list(read("chime_home", tmp_path))
    text(file, "\ufeffid,chunkname\r\n" + file.read_text().replace("\n", " \n") + "\r\n,\r\n")
    assert list(read("chime_home", tmp_path)) == names
    text(file, "1\n")
    with pytest.raises(CorpusError) as error:
        read("chime_home", tmp_path)
    assert error.value.where == {"file": file, "line": 1, "column": "chunkname"}


def test_a_chunk_without_its_table_or_its_audio_is_told_apart(tmp_path: Path) -> None:
    folder = corpora.chime_home(tmp_path)
    untagged, mute = "CR_lounge_220110_0731.s8_chunk7", "CR_lounge_200110_1711.s120_chunk2"
    (folder / "chunks1" / f"{untagged}.csv").unlink()
    (folder / "chunks1" / f"{mute}.48kHz.wav").unlink()
    clips = read("chime_home", tmp_path)
    assert clips[untagged].state == "bad_annotation" and f"{untagged}.csv" in clips[untagged].reason
    assert clips[mute].state == "missing" and f"{mute}.16kHz.wav" in clips[mute].reason


# CochlScene


def test_cochlscene_labels_come_from_folders(tmp_path: Path) -> None:
    found = Findings()
    clips = built("cochlscene", tmp_path, found)
    crowded = clips["Train/CrowdedIndoor/CrowdedIndoor_user0002_14987655_002.wav"]
    assert answers(crowded) == {"scene": "crowded indoor place", "scene_choice": "crowded indoor place"}
    choice = crowded.qa[1].question
    assert "crowded indoor place" in choice and choice.count(",") == 2 and " or " in choice
    name = "CrowdedIndoor_user0002_14987655_002"
    assert crowded.source_keys == {"user": "cochl-0002", "cochlscene": name}
    assert [clip.split for clip in clips.values()] == ["train", "train", "val", "test", "test"]
    assert clips[COCHL_GONE].state == "missing" and "Park_user0005" in clips[COCHL_GONE].reason
    assert "1 files of Data_info.tsv are missing" in found.notes
    assert "files in Val/: expected 7573, found 1" in found.notes


@pytest.mark.parametrize("prefix", ["", "/mnt/cochl/CochlScene/", "..\\CochlScene\\", "wavs/"])
def test_cochlscene_list_may_have_any_prefix(prefix: str, tmp_path: Path) -> None:
    folder = corpora.cochlscene(tmp_path, prefix)
    file = folder / "Data_info.tsv"
    rows = file.read_text().replace("\n", "\r\n")
    file.write_text(f"\ufefffilename\tlabel\tsplit\r\n{rows}Train\r\n", encoding="utf-8", newline="")
    assert list(read("cochlscene", tmp_path)) == [*COCHL_NAMES, COCHL_GONE]


def test_cochlscene_says_what_folders_and_list_disagree_about(tmp_path: Path) -> None:
    folder = corpora.cochlscene(tmp_path)
    wav(folder / "Train" / "Bus" / "Bus_user0004_14987659_000.wav")
    (folder / COCHL_NAMES[2]).rename(folder / "Test" / "Cafe" / "SubwayStation_user0003_14987656_000.wav")
    wav(folder / "Val" / "Car" / "Car_user0007_14987656_000.WAV")
    wav(folder / "preview.wav")
    clips = read("cochlscene", tmp_path, found := Findings())
    moved = clips["Test/Cafe/SubwayStation_user0003_14987656_000.wav"]
    assert moved.split == "test" and answers(moved)["scene"] == "cafe"
    assert len(clips) == 7 and not any("preview" in id for id in clips)
    assert clips["Val/Car/Car_user0007_14987656_000.WAV"].state == "ok"
    assert found.counts["scene in the name of the file"] == {"SubwayStation in Cafe/": 1}
    for note in (
        "2 files are not in Data_info.tsv",
        "1 files lie in the folder of another split",
        "1 of 5 contributors",
    ):
        assert any(text.startswith(note) for text in found.notes), note


def test_cochlscene_without_list_and_with_small_letters(tmp_path: Path) -> None:
    folder = corpora.cochlscene(tmp_path)
    (folder / "Data_info.tsv").unlink()
    (folder / "Val").rename(folder / "val")
    clips = read("cochlscene", tmp_path, found := Findings())
    assert list(clips) == list(COCHL_NAMES) and found.facts["Data_info.tsv"] == "not there"


def test_cochlscene_list_tells_where_the_audio_is_still_in_a_zip(tmp_path: Path) -> None:
    folder = corpora.cochlscene(tmp_path / "inner")
    (folder / "Data_info.tsv").rename(tmp_path / "Data_info.tsv")
    archive = corpora.zipped(tmp_path / "inner")
    clips = read("cochlscene", tmp_path)
    assert list(clips) == [*COCHL_NAMES, COCHL_GONE]
    assert clips[COCHL_NAMES[0]].audio == Path(f"{archive}!/inner/CochlScene/{COCHL_NAMES[0]}")


def test_cochlscene_unknown_scene_is_a_bad_annotation(tmp_path: Path) -> None:
    folder = corpora.cochlscene(tmp_path)
    wav(folder / "Train" / "Moon" / "Moon_user0009_14987650_000.wav")
    clip = read("cochlscene", tmp_path)["Train/Moon/Moon_user0009_14987650_000.wav"]
    assert clip.state == "bad_annotation" and "Moon" in clip.reason


# MACS


def test_macs_captions_tags_and_locations(tmp_path: Path) -> None:
    found = Findings()
    clips = built("macs", tmp_path, found)
    first, second = clips["airport-lisbon-12-345-a"], clips["airport-lisbon-12-346-a"]
    assert first.split == second.split and first.source_keys["location"] == "tau-lisbon-12"
    assert answers(first)["scene"] == "airport"
    # siren: 0.9 of 1.9; adults_talking: 1.0 of 1.9; footsteps: 1.8 of 1.9.
    assert answers(first)["tags"] == "adults talking and footsteps"
    assert clips["park-lyon-4-74-a"].state == "missing"
    assert {clip.split for clip in clips.values()} == set(SPLITS)
    for clip in clips.values():
        captions = [qa for qa in clip.qa if qa.task == "caption"]
        assert len(captions) == (3 if clip.split == "train" else 1)
        assert sum(len(qa.answers) for qa in captions) == 3
    assert found.counts["captions a clip"] == {"3": 7} and found.counts["tag"]["footsteps"] == 14
    assert "clips: expected 3930, found 7" in found.notes and "captions: expected 17275, found 21" in found.notes


def test_macs_annotations_may_lie_beside_the_folder_of_tau(tmp_path: Path) -> None:
    expected = built("macs", tmp_path / "a")
    folder = corpora.macs_beside_tau(tmp_path / "b")
    assert ADAPTERS["macs"].find(folder) == folder
    clips = read("macs", folder, found := Findings())
    assert [(clip.id, clip.split, clip.qa, clip.state) for clip in clips.values()] == [
        (clip.id, clip.split, clip.qa, clip.state) for clip in expected.values()
    ]
    assert found.counts["scene and location"] == {"meta.csv": 7}


def test_macs_first_fold_of_tau_is_a_choice(tmp_path: Path) -> None:
    corpora.macs_beside_tau(tmp_path)
    clips = read("macs", tmp_path, found := Findings(), split="fold1")
    ids = [name.removesuffix(".wav") for name in MACS_NAMES]
    assert {id: (clip.split, clip.state) for id, clip in clips.items()} == {
        **dict.fromkeys(ids[:4], ("train", "ok")),
        **dict.fromkeys(ids[4:6], ("test", "ok")),
        ids[6]: ("train", "blacklisted"),
    }
    assert any("1 clips are in none of its lists" in note and "0 of 5 locations" in note for note in found.notes)
    setup = tmp_path / "TAU-urban-acoustic-scenes-2019-development" / "evaluation_setup"
    (setup / "fold1_evaluate.csv").unlink()  # the other list of the same files, without labels
    assert splits_of(read("macs", tmp_path, split="fold1")) == splits_of(clips)
    (setup / "fold1_test.csv").unlink()
    with pytest.raises(CorpusError, match=r"fold1_test\.csv"):
        read("macs", tmp_path, split="fold1")


def test_macs_audio_may_lie_in_the_zips_of_tau(tmp_path: Path) -> None:
    corpora.macs_beside_tau(tmp_path)
    tau = "TAU-urban-acoustic-scenes-2019-development"
    archive = corpora.zipped(tmp_path / tau).rename(tmp_path / f"{tau}.audio.1.zip")
    clips = read("macs", tmp_path)
    assert ADAPTERS["macs"].find(tmp_path) == tmp_path
    assert clips["airport-lisbon-12-345-a"].audio == Path(f"{archive}!/{tau}/audio/{MACS_NAMES[0]}")


def test_macs_competences_have_either_header(tmp_path: Path) -> None:
    file = corpora.macs(tmp_path) / "MACS_competence.csv"
    table(file, [["id", "competence"], [7, 0.1], [21, 0.9]], delimiter="\t", line_end="\r\n")
    clip = read("macs", tmp_path, found := Findings())["airport-lisbon-12-345-a"]
    # adults_talking: 0.1 + 1 of 2, where annotator 30 is unknown; footsteps: 1.0 of 2, no majority.
    assert answers(clip)["tags"] == "adults talking"
    assert found.counts["annotator without competence, counted as 1"] == {"30": 7}
    table(file, [["annotator", "competence"], [7, 0.1]], delimiter="\t")
    with pytest.raises(CorpusError) as error:
        read("macs", tmp_path)
    assert error.value.where == {"file": file, "column": "annotator_id"}
    table(file, [["id", "competence"], [7, "high"]], delimiter="\t")
    with pytest.raises(CorpusError, match="competence is not a number"):
        read("macs", tmp_path)


def test_macs_without_competences_and_meta_votes_and_reads_names(tmp_path: Path) -> None:
    folder = corpora.macs(tmp_path)
    (folder / "MACS_competence.csv").unlink()
    shutil.rmtree(folder / "tau_meta")
    text(folder / "meta.csv", "id,title\n1,of another corpus\n")
    clip = read("macs", tmp_path, found := Findings())["airport-lisbon-12-345-a"]
    assert answers(clip)["tags"] == "adults talking and footsteps" and answers(clip)["scene"] == "airport"
    assert clip.source_keys["location"] == "tau-lisbon-12"
    assert found.counts["scene and location"] == {"name of the file": 7}
    assert any("MACS_competence.csv" in note for note in found.notes)


def test_macs_annotations_with_gaps(tmp_path: Path) -> None:
    folder = corpora.macs(tmp_path)
    text(
        folder / "MACS.yaml",
        "\ufefffiles:\r\n- filename: audio/odd name.wav\r\n  annotations:\r\n"
        "  - {annotator_id: 7, sentence: null, tags: null}\r\n"
        "  - {annotator_id: 21, sentence: 'Caf\u00e9, d\u00e9j\u00e0 vu', tags: siren}\r\n"
        "- filename: airport-lisbon-12-345-a.wav\r\n  annotations: []\r\n",
    )
    wav(folder / "audio" / "odd name.FLAC")
    clips = read("macs", tmp_path)
    assert answers(clips["odd name"]) == {"caption": "Caf\u00e9, d\u00e9j\u00e0 vu"}  # siren: 0.9 of 1.8, no majority
    assert clips["odd name"].source_keys["location"] == "tau-odd name"
    assert answers(clips["airport-lisbon-12-345-a"]) == {"scene": "airport"}


def test_macs_broken_yaml_is_named(tmp_path: Path) -> None:
    file = corpora.macs(tmp_path) / "MACS.yaml"
    for content in (
        "files: [",
        "other: 1",
        "files:\n- filename: a.wav\n",
        "files:\n- {filename: a, annotations: [b]}\n",
    ):
        file.write_text(content)
        with pytest.raises(CorpusError, match=r"MACS\.yaml"):
            read("macs", tmp_path)
    file.write_bytes(b"files:\n- filename: \xff.wav\n")
    with pytest.raises(CorpusError, match=r"MACS\.yaml"):
        read("macs", tmp_path)
