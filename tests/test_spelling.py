"""Lessons in spelling backward: right and wrong answers by reasoning-gym's own verifier, and words that no other split has."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from dmpo_ref import load_config
from dmpo_ref.presets.loading import load_options
from dmpo_ref.tasks import TASKS
from dmpo_ref.tasks.reasoning_gym import make_problems
from toy.options import TextPretrainConfig
from toy.text_pretrain import pretrain_text
from toy.text_reference import END_OF_TURN, build_tasks, draw_lessons, load_text_model, question, wrap
from toy.worlds.spelling import GENERATOR, NUMBERS, held_out_answers, spelling_lesson, swap_ends

TASK = build_tasks()["reasoning_gym"]


def answer_of(lesson) -> str:
    return lesson.answer.rpartition("<answer>\n")[2].partition("\n")[0]


def word_of(lesson) -> str:
    return lesson.item.question.split()[-1]


@pytest.mark.parametrize("split", NUMBERS)
def test_a_careful_answer_is_right_by_the_verifier(split):
    for seed in range(20):
        lesson = spelling_lesson(random.Random(seed), split, True)
        assert answer_of(lesson) == "".join(reversed(word_of(lesson)))
        assert TASK.grade(lesson.item, lesson.answer).correct and TASK.reward(lesson.item, lesson.answer) == {"score": 1.0}
        assert lesson.item.index in NUMBERS[split] and question(TASK, lesson).startswith(lesson.item.question)


def test_a_careless_answer_moves_two_letters_and_is_hardly_ever_right():
    assert [swap_ends(word) for word in ("sun", "spelling", "level")] == ["nus", "gpellins", "level"]
    rng = random.Random(2)
    lessons = [spelling_lesson(rng, "pretrain", False) for _ in range(2000)]
    assert all(answer_of(lesson) == swap_ends(word_of(lesson)) for lesson in lessons)
    right = [lesson for lesson in lessons if TASK.grade(lesson.item, lesson.answer).correct]
    assert 0.003 < len(right) / 2000 < 0.03
    assert all(word_of(lesson)[1:-1].lower() == word_of(lesson)[-2:0:-1].lower() for lesson in right)
    wrong = next(lesson for lesson in lessons if len(set(word_of(lesson))) == len(word_of(lesson)) == 8)
    assert TASK.reward(wrong.item, wrong.answer)["score"] == pytest.approx(2 / 8)  # two of eight letters are in their places


def test_no_lesson_has_a_word_of_training_or_test():
    rng = random.Random(3)
    taught = {answer_of(lesson).lower() for lesson in draw_lessons(rng, GENERATOR, "pretrain", 4000, 1.0)}
    preset = load_config("text_spelling")
    asked = [
        {word[::-1].lower() for item in TASKS["reasoning_gym"](preset.task).load(source) for word in [item.question.split()[-1]]}
        for source in (preset.task.train, preset.task.test)
    ]
    assert len(asked[0]) == 510 and len(asked[1]) == 128, "two words of training come twice"
    assert not asked[0] & asked[1] and not taught & (asked[0] | asked[1])
    assert asked[0] | asked[1] <= held_out_answers()


def test_a_word_that_is_held_out_is_drawn_again(monkeypatch):
    """Of two words, one held out; without the rule half of the lessons would have it."""
    problems = make_problems(GENERATOR, 0)
    kept, held = problems[5000]["answer"], problems[5001]["answer"]
    monkeypatch.setattr("toy.worlds.spelling.NUMBERS", NUMBERS | {"pretrain": range(5000, 5002)})
    monkeypatch.setattr("toy.worlds.spelling.held_out_answers", lambda: {held.lower()})
    rng = random.Random(4)
    assert {answer_of(spelling_lesson(rng, "pretrain", True)) for _ in range(30)} == {kept}


def test_every_answer_fits_a_response_of_32_tokens():
    words = load_text_model("toy/text_checkpoint")[2]
    lessons = draw_lessons(random.Random(5), GENERATOR, "pretrain", 4000, 0.5)
    ids = wrap(words)([lesson.answer + END_OF_TURN for lesson in lessons], add_special_tokens=False).input_ids
    assert max(map(len, ids)) <= 32


def test_without_reasoning_gym_it_is_one_line_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package reasoning-gym: pip install 'dmpo-ref\[gym\]'$"):
        pretrain_text(TextPretrainConfig(output=str(tmp_path / "model"), lessons=GENERATOR, steps=21, batch_size=1))
    assert not list(tmp_path.iterdir())


def test_the_preset_says_how_its_model_is_made():
    """Its two commands are accepted, the first goes on from the shipped model, the second from the first."""
    head = Path("dmpo_ref/presets/text_spelling.yaml").read_text(encoding="utf-8").partition("output:")[0]
    commands = [line.split()[4:] for line in head.splitlines() if "dmpo pretrain-toy text" in line]
    first, second = (load_options(TextPretrainConfig, *words) for words in commands)
    assert first.start == "toy/text_checkpoint" and second.start == first.output
    assert second.output == load_config("text_spelling").model.path
    assert {first.lessons, second.lessons} == {GENERATOR} and first.seed != second.seed
