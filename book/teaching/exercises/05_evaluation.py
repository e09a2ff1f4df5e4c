# %% [markdown]
# # Exercises 5 · Measuring
#
# Four exercises on reliable measurements: intervals, pass@k, and rewards that can be exploited. Background: [notebook
# 10](../../../notebooks/10_benchmarks.ipynb).

# %%
import ast
import inspect
import math
import operator
import re
from fractions import Fraction

try:
    from exercise_checks import check, lenient_reward

    from toy.notebook import start
except ImportError:
    raise SystemExit("dmpo_ref is not installed here: run `pip install -e '.[lab]'` in the repository, then restart the kernel") from None

start()

# %% [markdown]
# ## 5.1 The Wilson interval (warm-up)
#
# k of n items were solved. The Wilson interval contains every p at which k/n is at most z standard errors away, with the standard error *at
# p*: $(k/n-p)^2\le z^2\,p(1-p)/n$. Solve the quadratic. What does the textbook interval $\hat p\pm z\sqrt{\hat p(1-\hat p)/n}$ give at k =
# 0?


# %%
def wilson(k, n, z):
    """(lower, upper) end."""
    # BEGIN SOLUTION
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return centre - half, centre + half
    # END SOLUTION


# %%
check(wilson)

# %% [markdown]
# ## 5.2 pass@k (standard)
#
# n answers were drawn, and c of them are right. pass@k is the probability that at least one of k *different* answers among these n is
# right. It is an unbiased estimate of the probability that at least one of k new answers is right; $1-(1-c/n)^k$ is biased.


# %%
def pass_at_k(n, c, k):
    """A probability."""
    # BEGIN SOLUTION
    return 1 - math.comb(n - c, k) / math.comb(n, k)
    # END SOLUTION


# %%
check(pass_at_k)

# %% [markdown]
# ## 5.3 A reward that can be hacked (standard)
#
# Countdown: reach the target with the given numbers, each used exactly once. `lenient_reward(text, numbers, target)` is a reward that was
# written carelessly. Read it, then write a function whose text gets reward 1 in *every* problem, solvable or not, without solving it.

# %%
print(inspect.getsource(lenient_reward))


# %%
def exploit(numbers, target):
    """A text for which lenient_reward(text, numbers, target) is 1, and that does not use each number once."""
    # BEGIN SOLUTION
    return f"{target} + 0 * ({' + '.join(str(number) for number in numbers)})"
    # END SOLUTION


# %%
check(exploit)

# %% [markdown]
# A policy trained on this reward finds your text, or another one. How would you see this in a training curve?
#
# ## 5.4 A strict grader (hard)
#
# Write a grader that refuses all such texts. Rules:
#
# - Only the digits `0` to `9`, the signs `+ - * / ( )` and spaces. Anything else makes a text wrong: a letter, a comment, a line break.
# - The operators stand between two operands, so `-93 + 30 + 100` is wrong, and `-` and `+` are never signs of a number.
# - Each given number exactly once, equal numbers as often as they are given, and written as Python prints it: not `030`.
# - The exact value. A value that is near the target, or that a float rounds to it, is wrong.
# - `True` or `False` for every string, and no `eval`. A text of more than 200 characters may be refused.
#
# `ast.parse` and `Fraction` help. But `ast.parse` reads Python, which has more ways to write a number than these rules.
#
# Then look for a text that your grader wrongly refuses or wrongly accepts, or argue that there is none.


# %%
def countdown_grade(text, numbers, target):
    """Whether the text is a right answer; never raises."""
    # BEGIN SOLUTION
    signs = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in signs:
            return signs[type(node.op)](value(node.left), value(node.right))
        raise ValueError("not arithmetic")

    # The characters come first: of what is left, Python reads nothing as a number but runs of digits.
    if not re.fullmatch(r"[0-9+\-*/() ]{1,200}", text) or sorted(re.findall(r"[0-9]+", text)) != sorted(map(str, numbers)):
        return False
    try:
        return value(ast.parse(text.strip(), mode="eval").body) == target
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    # END SOLUTION


# %%
check(countdown_grade)
