from __future__ import annotations

import pytest

from data_prep.adapters.questions import POOLS
from pipeline.config.schedule import TASK_LEVELS
from pipeline.errors import ConfigError
from pipeline.eval.metrics import KINDS, kind_of
from pipeline.eval.metrics.kinds import MAX_LABELS, TASK_KINDS


def test_every_task_that_the_project_names_has_a_kind() -> None:
    wordings_of_other_tasks = {"scene_choice", "emotion_choice"}
    tasks = {task for level in TASK_LEVELS for task in level} | POOLS.keys() - wordings_of_other_tasks
    assert tasks <= TASK_KINDS.keys()
    assert set(TASK_KINDS.values()) == set(KINDS)


def test_a_declared_task_keeps_its_kind_whatever_its_references_and_an_override_wins() -> None:
    answers = [("yes",)] * 10
    assert kind_of("caption", answers) == "caption"
    assert kind_of("qa_closed", [("a long answer of many words about it all",)]) == "closed"
    assert kind_of("caption", answers, {"caption": "closed", "other": "tags"}) == "closed"
    assert kind_of("qa", answers, {"qa": "tags"}) == "tags"


def often(*labels: str, n: int = 3) -> list[tuple[str, ...]]:
    return [(label,) for label in labels for _ in range(n)]


@pytest.mark.parametrize(
    ("references", "kind"),
    [
        (often("yes", "no"), "closed"),
        (often("Yes.", n=2) + often("yes", n=1), "closed"),
        (often("yes", "no", n=2), "open"),
        (often("yes", n=9) + often("rare", n=1), "closed"),
        (often("yes", n=8) + often("rare", n=1), "open"),
        (often("in a very busy street"), "closed"),
        (often("right in a very busy street"), "open"),
        (often(*(f"label {n}" for n in range(MAX_LABELS))), "closed"),
        (often(*(f"label {n}" for n in range(MAX_LABELS + 1))), "open"),
        ([], "open"),
        ([("",)], "open"),
    ],
)
def test_an_undeclared_task_is_closed_when_few_short_answers_each_occur_often(
    references: list[tuple[str, ...]], kind: str
) -> None:
    assert kind_of("qa", references) == kind
    assert kind_of("qa", reversed(references)) == kind


def test_a_wrong_kind_names_the_key_and_the_nearest_kind() -> None:
    with pytest.raises(ConfigError) as error:
        kind_of("caption", [], {"mine": "captoin"})
    assert error.value.where == {"key": "eval.kinds.mine"}
    assert error.value.got == "captoin"
    assert "'caption'" in str(error.value.hint)
