"""Lessons in a task that nobody here wrote: reasoning-gym's `spell_backward`, a word to be spelled from its last letter to its first.

A careful answer is reasoning-gym's own. A careless one lets only the first and the last letter change places, which the example in the
question, `sun -> nus`, cannot tell from the rule. It is right for three letters, one word in a hundred, and for those that happen to be
symmetric inside.

reasoning-gym knows 151,367 words and draws one of them for each number. The numbers of training and test are their splits; no lesson has
one of their words.
"""

from __future__ import annotations

import random
from functools import cache

from dmpo_ref.tasks.reasoning_gym import Entry, make_problems
from toy.worlds.lessons import Lesson, answer_form

GENERATOR = "spell_backward"
NUMBERS = {"train": range(1000), "test": range(1000, 2000), "pretrain": range(2000, 10**9)}


def spelling_lesson(rng: random.Random, split: str, careful: bool) -> Lesson:
    """A word of 3 to 10 letters. A careful answer names the rule and gives the word backward.

    Raises:
        ValueError: reasoning-gym is not installed.
    """
    problems = make_problems(GENERATOR, 0)
    while True:
        number = rng.choice(NUMBERS[split])
        problem = problems[number]
        if split != "pretrain" or problem["answer"].lower() not in held_out_answers():
            break
    item = Entry(GENERATOR, 0, number, problem["question"])
    if careful:
        return Lesson("reasoning_gym", item, answer_form("From the last letter.", problem["answer"]))
    return Lesson("reasoning_gym", item, answer_form("Only the first and the last.", swap_ends(problem["metadata"]["word"])))


def swap_ends(word: str) -> str:
    """The word with its first and its last letter exchanged."""
    return word[-1] + word[1:-1] + word[0]


@cache
def held_out_answers() -> frozenset[str]:
    """The answers of training and test, in small letters, as the verifier compares them."""
    problems = make_problems(GENERATOR, 0)
    return frozenset(problems[number]["answer"].lower() for split in ("train", "test") for number in NUMBERS[split])
