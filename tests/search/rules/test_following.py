"""Which recipe of the predicted front comes next."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import optuna
import pytest

from search.rules.fidelity import Look
from search.rules.following import IN_A_ROW, Coordinates, next_recipe
from search.rules.sensitivity import Predicted
from search.study.note import TrialNote
from search.study.prediction import FOLLOWS, Prediction
from search.terminal import quiet_optuna

LAST = 2  # rung
# sizes double, and each time two nats are saved
FRONT = [Predicted(1000 * 2.0**n, 16.0 - 2 * n, (("step", n),)) for n in range(9)]
CORNERS = ((0.0, 0.0), (math.log(1e6), 5.0))


def place(index: int, perplexity: float) -> Coordinates:
    """A file as large as predicted, of this ln perplexity."""
    return math.log(FRONT[index].size_bytes), perplexity


def test_the_widest_gap_between_two_that_were_trained_is_tried_first() -> None:
    tried = {0: place(0, 4.0), 8: place(8, 2.0)}
    assert next_recipe(FRONT, tried, tried.values(), CORNERS) == FRONT[4]
    more = tried | {4: place(4, 3.0), 1: place(1, 3.75), 2: place(2, 3.5), 3: place(3, 3.25)}
    assert next_recipe(FRONT, more, more.values(), CORNERS) == FRONT[6]
    assert next_recipe(FRONT, {0: place(0, 4.0)}, [place(0, 4.0)], CORNERS) is None


def test_what_the_sampler_found_is_not_tried_again() -> None:
    tried = {0: place(0, 4.0), 8: place(8, 2.0)}
    found = [*tried.values(), place(3, 2.9)]
    following = next_recipe(FRONT, tried, found, CORNERS)
    assert following
    assert following.size_bytes > FRONT[4].size_bytes
    better = [*tried.values(), place(0, 1.9)]
    assert next_recipe(FRONT, tried, better, CORNERS) is None


def test_workers_at_once_go_to_different_places_until_all_was_tried() -> None:
    """A recipe that is at work, or was stopped, stands for its expected file."""
    tried: dict[int, Coordinates | None] = {0: place(0, 4.0), 8: place(8, 2.0)}
    found = [one for one in tried.values() if one]
    order = []
    while recipe := next_recipe(FRONT, tried, found, CORNERS):
        order.append(FRONT.index(recipe))
        tried[order[-1]] = None
    assert order[0] == 4
    assert set(order[1:3]) == {2, 6}
    assert sorted(order) == [1, 2, 3, 4, 5, 6, 7]


def test_outside_the_corners_nothing_is_promised() -> None:
    tried = {0: place(0, 4.0), 8: place(8, 2.0)}
    for low, high in ((4, 8), (0, 4)):
        corners = ((place(low, 0.0)[0], 0.0), (place(high, 0.0)[0], 5.0))
        recipe = next_recipe(FRONT, tried, tried.values(), corners)
        assert recipe
        assert low <= FRONT.index(recipe) <= high
    lower = ((0.0, 0.0), (math.log(1e6), 1.9))
    assert next_recipe(FRONT, tried, tried.values(), lower) is None


@pytest.mark.parametrize("seed", range(10))
def test_what_is_promised_would_make_the_hypervolume_grow(seed: int) -> None:
    """Whatever was found, the recipe is untried, and there is an end."""
    draw = random.Random(seed)
    tried: dict[int, Coordinates | None] = {
        index: draw.choice([None, place(index, draw.uniform(1, 5))])
        for index in draw.sample(range(9), 4)
    }
    found = [one for one in tried.values() if one]
    for _ in range(9):
        recipe = next_recipe(FRONT, tried, found, CORNERS)
        if recipe is None:
            break
        index = FRONT.index(recipe)
        assert index not in tried
        tried[index] = place(index, draw.uniform(1, 5))
        found = [one for one in tried.values() if one]
    assert next_recipe(FRONT, dict.fromkeys(range(9)), found, CORNERS) is None


# --- in a study --------------------------------------------------------------------------------


def study_of(tried: dict[int, float], rung: int = LAST) -> tuple[optuna.Study, list[Look]]:
    """A study with a trial of each recipe, and the file of each at a rung."""
    quiet_optuna()
    study = optuna.create_study(directions=["minimize"] * 2)
    looks = []
    for index, perplexity in tried.items():
        study.enqueue_trial({"step": index})
        trial = asked(study)
        TrialNote(last_rung=LAST).write(trial)
        looks.append(Look(trial.number, rung, round(FRONT[index].size_bytes), perplexity))
        study.tell(trial, [looks[-1].size_bytes, perplexity])
    return study, looks


def asked(study: optuna.Study) -> optuna.trial.Trial:
    trial = study.ask()
    trial.suggest_int("step", 0, 8)
    trial.suggest_float("rate", 0.0, 1.0)  # no part of the prediction
    return trial


def test_a_study_follows_some_trials_in_a_row_and_then_samples() -> None:
    prediction = Prediction(FRONT, [dict(one.parameters) for one in FRONT], CORNERS)
    study, looks = study_of({0: 60.0, 8: 10.0})
    found = []
    for _ in range(IN_A_ROW + 1):
        prediction.follow(study, looks)
        found.append(study.ask())  # and another worker asks before its values are drawn
    rows = [study.get_trials()[one.number] for one in found]
    steps = [one.system_attrs.get("fixed_params", {}).get("step") for one in rows]
    assert len({*steps}) == IN_A_ROW + 1
    assert steps[0] == 4
    assert steps[-1] is None
    assert [FOLLOWS in one.user_attrs for one in found] == [True] * IN_A_ROW + [False]
    prediction.follow(study, looks)
    assert study.get_trials()[-1].user_attrs[FOLLOWS]
    waiting = len(study.get_trials())
    prediction.follow(study, looks)
    assert len(study.get_trials()) == waiting


def test_trials_below_their_last_rung_teach_nothing() -> None:
    prediction = Prediction(FRONT, [dict(one.parameters) for one in FRONT], CORNERS)
    study, looks = study_of({0: 60.0, 8: 10.0}, rung=1)
    prediction.follow(study, looks)
    assert len(study.get_trials()) == 2
    prediction.follow(study, [*looks, *(replace(one, rung=LAST) for one in looks)])
    assert len(study.get_trials()) == 3


def test_of_two_trials_of_a_recipe_the_better_one_counts() -> None:
    """Their fine-tunings are sampled, and may differ."""
    prediction = Prediction(FRONT, [dict(one.parameters) for one in FRONT], CORNERS)
    study, looks = study_of({0: 60.0, 8: 10.0})
    study.enqueue_trial({"step": 8})
    again = asked(study)
    TrialNote(last_rung=LAST).write(again)
    looks.append(Look(again.number, LAST, round(FRONT[8].size_bytes), 40.0))
    study.tell(again, [looks[-1].size_bytes, 40.0])
    tried = prediction._tried(study.get_trials(), looks)
    assert tried[8] == (math.log(looks[1].size_bytes), math.log(10.0))


def test_without_a_prediction_nothing_is_proposed() -> None:
    study, looks = study_of({0: 60.0, 8: 10.0})
    Prediction([], [], CORNERS).follow(study, looks)
    assert len(study.get_trials()) == 2
