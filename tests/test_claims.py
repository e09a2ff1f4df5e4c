"""Sentences with a number of the stored runs say that number, wherever they stand: README, book, notebooks."""

import re
import statistics
from math import comb
from pathlib import Path

import nbformat
import numpy as np
import pytest

from toy.studies.acts import by_name, lost_mode, read
from toy.studies.objectives import LEARNING_RATES, lost_a_solution
from toy.studies.objectives import OBJECTIVES as STUDIED
from toy.worlds.mixture import world_1d

README, RESULTS, PAPER = "README.md", "book/results.md", "book/paper.md"
VARIANTS, GROUP_SIZE = by_name(read("variants")), by_name(read("group_size"))
RIVALS = read("objectives")
FINAL = by_name([row for row in RIVALS if row["kind"] == "final"])
ONE_SHOT = [name for name in STUDIED if name.startswith(("diffu", "wd1"))]


def median(rows: list[dict]) -> float:
    return statistics.median(row["after"]["kl_target_policy"] for row in rows)


def kl(name: str) -> str:
    return f"{median(VARIANTS[f'wdce, {name}']):.3f}"


def lost(rows: list[dict], how=lost_a_solution) -> str:
    return f"{sum(map(how, rows))} of {len(rows)}"


def prose(path: str) -> str:
    """The text of a page in one line; of a notebook's source, its markdown."""
    text = Path(path if "/" in path or path == README else next(Path("notebooks").glob(f"{path}_*.py"))).read_text(encoding="utf-8")
    if not path.endswith(".md"):
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    return re.sub(r"\s+", " ", text)


small, finals = lost(GROUP_SIZE["N=4, 1 group"], lost_mode), {name: f"{median(rows):.3f}" for name, rows in FINAL.items()}
by_size = sorted(
    median([row for row in FINAL["REINFORCE, KL"] if row["num_rollouts"] == N]) for N in {row["num_rollouts"] for row in RIVALS}
)
pairs = f"{median(read('path_steps')):.3f} and {median(read('act_b')):.3f}"
kept_both = FINAL["REINFORCE"] + FINAL["REINFORCE, KL"]
kept = f"{sum(not lost_a_solution(row) for row in kept_both)} of {len(kept_both)}"
plain = f"{sum(not lost_a_solution(row) for row in FINAL['REINFORCE'])} of {len(FINAL['REINFORCE'])}"
one_shot = [row for name in ONE_SHOT for row in FINAL[name]]
SENTENCES = [
    (README, f"With one group of 4 in a step and the same learning rate, {small} runs lose a solution"),
    (RESULTS, f"with one group of 4 in a step, at the rate of the large groups, {small} runs lost one"),
    (RESULTS, f"REINFORCE kept both in {kept} runs"),
    (RESULTS, f"lost a solution in all {len(one_shot)} runs"),
    (RESULTS, f"`uniform` is twice as far as `none` on masks ({pairs} nats, medians of {len(read('act_b'))} runs on three puzzles)"),
    (RESULTS, f"further from p\\* than weights along the path ({kl('none, elbo weights')} and {kl('none')} nats)"),
    (RESULTS, f"the ELBO costs nothing ({kl('none')} on masks, {kl('none, path likelihood')} on the path)"),
    ("04", f"`uniform` is ten times *worse* than `none`: {kl('uniform')} and {kl('none')}"),
    ("04", f"`uniform` then ends at {kl('uniform, path steps')}"),
    ("05", f"is good on paths ({kl('uniform, path likelihood')}), and on masks it is the worst row of that table ({kl('uniform')})"),
    ("05", f"which cost as much as two masks, it ends at {kl('uniform, path steps')}"),
    ("08", f"as DMPO does ({finals['REINFORCE, KL']} and {finals['WDCE (DMPO)']} nats), log-variance less near ({finals['log-variance']})"),
    ("08", f"are away from it ({by_size[0]:.3f} to {by_size[-1]:.3f})"),
    ("08", f"lost one of its two solutions in all {len(one_shot)} runs"),
    ("08", f"kept both in {plain} runs"),
    ("08", f"DMPO loses solutions too, in {small} runs at the rate of large groups"),
    ("10", f"with one group of 4 rollouts a step {small} toy runs lost one at the rate of large groups"),
]


@pytest.mark.parametrize(("page", "sentence"), SENTENCES, ids=[f"{page} {sentence[:30]}" for page, sentence in SENTENCES])
def test_a_sentence_says_what_the_stored_runs_say(page, sentence):
    assert sentence in prose(page)


def ratio(name: str) -> float:
    return median(VARIANTS[f"wdce, {name}"]) / median(VARIANTS["wdce, none"])


def test_what_is_said_in_words_is_so_in_the_stored_runs():
    assert 9.5 < ratio("uniform") < 12 and "ended ten times further from p\\* than `none`" in prose(RESULTS)
    assert 7.5 < ratio("none, elbo weights") < 8.5 and "the divergence is eight times as large" in prose("03")
    assert max(row["after"]["kl_target_policy"] for row in VARIANTS["wdce, none, elbo weights"]) < 0.05
    assert "still ends within 0.05 nats of p\\*" in prose("03")
    assert 1.7 < median(read("path_steps")) / median(read("act_b")) < 2.3 and "A factor of two." in prose("04")
    assert 0.5 < median(VARIANTS["wdce, uniform, path likelihood"]) / median(VARIANTS["wdce, none, path likelihood"]) < 2


def test_at_a_tenth_of_their_rates_the_one_shot_objectives_keep_both_solutions_and_solve_less():
    slow = [row for row in RIVALS if row["kind"] == "sweep" and row["name"] in ONE_SHOT and row["learning_rate"] == min(LEARNING_RATES)]
    chosen = {row["learning_rate"] for row in one_shot}
    assert chosen == {10 * min(LEARNING_RATES)} and len(slow) == len(ONE_SHOT) == 3
    assert all(map(lost_a_solution, one_shot))
    assert not any(map(lost_a_solution, slow))
    assert all(0.65 < row["after"]["solved"] < 0.7 for row in slow)
    assert "At a tenth of these rates both survive, and the puzzle is solved two times out of three." in prose("08")
    assert "at a tenth of these rates both survive, and two of three answers are right" in prose(RESULTS)


def test_which_sizes_the_published_masks_count_too_little():
    """E[weight · 1(size m)] · m of `paper`, by quadrature over the mask probability 0.1 + 0.9u; 1 is right."""

    def factors(L: int) -> list[float]:
        nodes, weights = np.polynomial.legendre.leggauss(L + 2)
        p = 0.1 + 0.9 * (nodes + 1) / 2
        size = [comb(L, m) * (weights / 2) @ (p**m * (1 - p) ** (L - m)) for m in range(L + 1)]
        return [L * (size[m] + size[L - m]) / 2 for m in range(1, L + 1)]

    first, second, third, fourth, fifth = (f"{x:.2f}" for x in factors(5))
    assert f"every* size: {first}, {second}, {third}, {fourth} and {fifth} of the right one for m = 1 to 5" in prose("01")
    sixteen = {m: x for m, x in enumerate(factors(16), start=1)}
    few = [m for m, x in sixteen.items() if x < 1]
    assert f"the sizes {', '.join(map(str, few[:-1]))} and {few[-1]} get" in prose("01")
    assert (
        f"get {min(sixteen.values()):.2f} to {max(sixteen[m] for m in few):.2f} of it, the others up to {max(sixteen.values()):.2f}"
        in prose("01")
    )


def printed(notebook: str, pattern: str) -> list[tuple[str, ...]]:
    """What a pattern finds in the outputs of a notebook as text, which `pytest --nbval` holds to its code."""
    cells = nbformat.read(next(Path("notebooks").glob(f"{notebook}_*.ipynb")), as_version=4).cells
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]
    return [found for text in texts for found in re.findall(pattern, text, re.MULTILINE)]


def test_whose_reward_is_highest_at_which_group_size():
    rows = printed("04", r"^(none|uniform|negative|model) +(4|8|16) +\d\.\d+ ± \d\.\d+ +(-?\d\.\d+)$")[:12]  # the first table, 60 rounds
    reward = {(name, int(N)): float(value) for name, N, value in rows}
    best = {N: max(("none", "uniform", "negative", "model"), key=lambda name: reward[name, N]) for N in (4, 8, 16)}
    assert best == {4: "none", 8: "negative", 16: "negative"}
    assert "the best at $N=8$ and 16; at $N=4$ `none` has more" in prose("04")
    assert "the highest reward at N = 8 and 16, not at N = 4" in prose(RESULTS)
    world = world_1d()
    at_target = (world.log_target.exp() @ world.reward).item()
    assert reward["negative", 16] > at_target > reward["negative", 8]
    assert "has the most reward at N = 8 and 16 (at 16 more than p\\* has), but not at 4" in prose(PAPER)
    assert all(reward["uniform", N] < reward["none", N] for N in (4, 8, 16))
    assert "`uniform` has less reward than `none` at $N=4$, 8 and 16" in prose("04")


def test_how_many_modes_a_broad_start_saves():
    rows = printed("02", r"^(narrow|wide) +([35]) +([\d ]+)$")
    dropped = {(K, start): sum(map(int, drops.split())) for start, K, drops in rows}
    three, five = ([dropped[K, start] for start in ("narrow", "wide")] for K in "35")
    assert f"the six runs drop {three[1]} modes instead of {three[0]}; with five they drop {five[1]} instead of {five[0]}" in prose("02")
