"""`gst group`: from published sketches to a saved version, or to an error that says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.affinity.local import LocalTransport
from pipeline.affinity.outbox import Outbox
from pipeline.affinity.versions import load_version
from pipeline.cli.affinity_link import affinity_folder
from pipeline.cli.group import group
from pipeline.config import load_recipe
from pipeline.errors import AffinityError, MissingError
from tests.unit.affinity.publishing import SPEC, make_stats, put_probe

TEXT = "arm: a\nmodel: {path: m}\ndata: {shards: s}\ntrain: {max_steps: 1}\nsketch: {k: 64}\n"
CHEAP = ["affinity.bootstrap=20", "affinity.groups=2"]
TWO = ["service.contributors=[one, two]"]


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{TEXT}out: {tmp_path / 'exp'}\naffinity: {{bootstrap: 20, groups: 2}}\n")
    return str(path)


def test_it_sends_what_waits_groups_and_says_why(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(recipe_file)
    put_probe(recipe)
    group(recipe_file)
    version = load_version(affinity_folder(recipe))
    text = capsys.readouterr().out
    assert version.id in text and version.verdict.split(".")[0][:40] in text.replace("\n", " ")
    assert all(name in text for name in ("stage 0", "stability", "silhouette", "eigengap", "2 *", "reliability"))
    assert Outbox(Path(recipe.out) / "outbox").waiting() == []
    group(recipe_file)  # the same version, not a second one
    assert len(list(affinity_folder(recipe).glob("v-*.json"))) == 1


def test_without_a_probe_or_with_one_of_another_kind_it_refuses(recipe_file: str) -> None:
    with pytest.raises(AffinityError, match="no complete probe"):
        group(recipe_file)
    recipe = load_recipe(recipe_file)
    others = {"k": 128, "seed": 1, "version": 2, "gradient": "sign"}
    for key, value in others.items():
        put_probe(recipe, **{key: value})
        with pytest.raises(AffinityError, match=f"differ in {key}") as caught:
            group(recipe_file)
        assert caught.value.got == {key: value} and caught.value.expected == {key: SPEC[key]}


def test_contributors_that_are_missing_are_named(recipe_file: str) -> None:
    put_probe(load_recipe(recipe_file, [*TWO, "service.contributor=one"]))
    with pytest.raises(MissingError) as caught:
        group(recipe_file, [*TWO, "service.contributor=one"])
    assert caught.value.got == "two has to send a, b, c"
    assert "wait for these jobs" in str(caught.value)
    put_probe(load_recipe(recipe_file, [*TWO, "service.contributor=two"]), make_stats(seed=1))
    group(recipe_file, [*TWO, "service.contributor=one"])


def test_a_store_that_knows_nothing_of_the_probe_is_explained(recipe_file: str) -> None:
    recipe = load_recipe(recipe_file)
    put_probe(recipe)
    outbox = Outbox(Path(recipe.out) / "outbox")
    outbox.remove(outbox.waiting()[0])
    with pytest.raises(MissingError, match=r"delete .*probe\.json and run `gst probe` again"):
        group(recipe_file)


def test_a_version_of_the_store_can_be_fetched(recipe_file: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    put_probe(recipe)
    group(recipe_file)
    first = load_version(affinity_folder(recipe))
    group(recipe_file, ["affinity.groups=1"])
    assert load_version(affinity_folder(recipe)).id != first.id
    group(recipe_file, fetch=first.id)
    assert load_version(affinity_folder(recipe)).id == first.id
    with pytest.raises(MissingError, match="no such affinity version"):
        group(recipe_file, fetch="v-000000000000")
    assert len(LocalTransport(affinity_folder(recipe)).versions()) == 2
