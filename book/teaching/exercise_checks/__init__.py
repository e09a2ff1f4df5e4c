"""Checks of the course's exercises: `check(solution)` says in one line whether a function is right, and if not, which property failed.

The exercises themselves are notebooks in `book/teaching/student`. A check knows its exercise by the name of the function. It
compares with a computation of another kind (a property, an enumeration, a finite difference) and never prints the answer.
"""

from __future__ import annotations

from collections.abc import Callable

from exercise_checks import evaluation, likelihood, losses, research, sampling, weights
from exercise_checks.common import Asked, SmallModel, Wrong, answers_of, show, show_value, told
from exercise_checks.evaluation import lenient_reward

__all__ = ["SmallModel", "answers_of", "check", "lenient_reward", "problem"]

CHECKS: dict[str, Callable[[Callable], None]] = {
    name.removeprefix("check_"): function
    for module in (weights, likelihood, losses, sampling, evaluation, research)
    for name, function in vars(module).items()
    if name.startswith("check_")
}


def check(solution: Callable) -> None:
    """Print `name: right`, or what is wrong with a solution, in one line."""
    print(f"{solution.__name__}: {problem(solution) or 'right'}")


def problem(solution: Callable, name: str | None = None) -> str | None:
    """What is wrong with a solution, in one line; None if nothing was found.

    Args:
        name: of the exercise, where it is not the name of the function.

    Raises:
        ValueError: there is no exercise of that name.
    """
    name = name or solution.__name__
    if name not in CHECKS:
        raise ValueError(f"there is no exercise {name!r}; choose one of {', '.join(CHECKS)}")
    asked = Asked(solution)
    try:
        CHECKS[name](asked)
    except NotImplementedError:
        return "not written yet"
    except Wrong as wrong:
        return " ".join(str(wrong).split())
    except Exception as error:  # the check itself could not use what was returned
        return f"returns {show_value(asked.returned)[:60]}, which cannot be checked ({told(error)}), for {show(asked.given)}"
    return None
