"""The page of the scoreboard: its tables, and the numbers in its sentences, are those of the stored runs."""

import json
import re
import statistics
from pathlib import Path

import numpy as np

from toy import RESULTS
from toy.scoreboard.report import by_size, interval, report_rows, write_interval
from toy.scoreboard.run import current_rows, read_rows
from toy.scoreboard.suite import read_suite

PAGE = Path("book/scoreboard.md")
TEXT = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
SMALL = "two solutions, A"  # the puzzle of small groups
SUITE, FILE = read_suite(), RESULTS / "scoreboard.jsonl"
SCORES = current_rows(SUITE, read_rows(FILE, SUITE["version"]), FILE)


def page_tables() -> dict[str, list[str]]:
    """First cell → the other cells, of every table of the page."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {" ".join((cells[0], str(len(cells)))): cells[1:] for cells in lines}


def test_the_tables_of_the_scoreboard_are_those_of_the_stored_runs():
    shown = page_tables()
    for method in SUITE["methods"]:
        rows = report_rows(SCORES, method)
        kl = [row["kl_target_policy"] for row in rows]
        modes = f"{sum(row['modes'] for row in rows)}/{sum(len(row['shares']) for row in rows)}"
        right, price = (
            f"{statistics.mean(row['valid'] for row in rows):.3f}",
            f"{statistics.median(row['forward_rows'] for row in rows):,.0f}",
        )
        expected = [f"{statistics.median(kl):.3f}", write_interval(kl), f"{max(kl):.3f}", right, modes, price]
        assert shown[f"{method} 7"] == expected, method
    sizes, groups = by_size(SCORES, "groups_per_step"), by_size(SCORES, "group_size")
    for method in SUITE["groups_per_step"]["methods"]:
        points = [sizes[SMALL, method, size] for size in (4, 16, 64, 256)]
        kl = [row["kl_target_policy"] for row in points[0]]
        right, lost = f"{statistics.mean(row['valid'] for row in points[0]):.3f}", f"{sum(row['lost'] for row in points[0])}/{len(kl)}"
        assert shown[f"{method} 5"] == [f"{statistics.median(kl):.4f}", f"{max(kl):.3f}", right, lost], method
        lost = f"{sum(row['lost'] for rows in points for row in rows)}/{sum(map(len, points))}"
        assert shown[f"{method} 6"] == [*(f"{median_of(rows):.4f}" for rows in points), lost], method
    for method in SUITE["group_size"]["methods"]:
        points = [groups[SMALL, method, N] for N in SUITE["group_size"]["num_rollouts"]]
        assert all(len(rows) == 3 for rows in points)
        assert shown[f"{method} 9"] == [f"{median_of(rows):.4f}" for rows in points], method


def median_of(rows) -> float:
    return statistics.median(row["kl_target_policy"] for row in rows)


def test_what_is_said_of_small_groups():
    sizes, groups = by_size(SCORES, "groups_per_step"), by_size(SCORES, "group_size")
    kl = {(method, size): median_of(rows) for (_, method, size), rows in sizes.items()}
    step, path = "WDCE, path steps", "WDCE, whole path"
    for name in (step, path):
        assert (
            f"from {kl[name + ', uniform', 4]:.3f} to {kl[name + ', 1/4 by p_ref', 4]:.3f} on {name.removeprefix('WDCE, ')}"
            in TEXT.replace("the whole", "whole")
        )
    rows = {name: {row["forward_rows"] for row in sizes[SMALL, path + name, 4]} for name in (", 1/4 by p_ref", ", uniform")}
    assert "a price of {:,} rows in `train` for {:,} without".format(*(row for of_name in rows.values() for row in of_name)) in TEXT
    alone = [row for (_, _, size), of_size in sizes.items() if size == 4 for row in of_size]
    readme = Path("README.md").read_text(encoding="utf-8")
    assert f"at [rates tuned for it](book/scoreboard.md) none of {len(alone)};" in readme
    results = Path("book/results.md").read_text(encoding="utf-8")
    assert f"at rates tuned for small ones none of {len(alone)} does" in results
    assert f"they bring `uniform` to {kl[step + ', uniform', 16]:.3f} and {kl[path + ', uniform', 16]:.3f}" in TEXT
    assert all(kl[name + ", 1/4 by p_ref", 16] > 0.95 * kl[name + ", 1/4 by p_ref", 4] for name in (step, path))
    assert min(kl[method, 256] for method in SUITE["groups_per_step"]["methods"]) > 0.015
    assert not any(row["lost"] for rows in (*sizes.values(), *groups.values()) for row in rows)
    rates = {method: rows[0]["learning_rate"] for (_, method, size), rows in sizes.items() if size == 4}
    assert {m for m, rate in rates.items() if rate == min(rates.values())} == {step, "WDCE, masks"}
    assert min(rates.values()) == 3e-5 and sorted(set(rates.values()))[1] == 3e-4
    of_size = {m: [median_of(groups[SMALL, m, N]) for N in SUITE["group_size"]["num_rollouts"]] for m in SUITE["group_size"]["methods"]}
    for method in (step, step + ", uniform", step + ", model"):
        slope = np.polyfit(np.arange(8), np.log(of_size[method]), 1)[0]
        assert slope > -0.1, method  # nats of log-divergence for each doubling of N: none gets better
    assert np.polyfit(np.arange(8), np.log(of_size[step + ", negative"]), 1)[0] > 0.05
    assert all(u > m for u, m in zip(of_size[step + ", uniform"], of_size[step + ", model"], strict=True))
    assert all(u > n for u, n in zip(of_size[step + ", uniform"], of_size[step], strict=True))


REPORT = {method: report_rows(SCORES, method) for method in SUITE["methods"]}
THREE = "three solutions"


def test_what_is_said_of_methods_that_maximise_the_reward_and_of_many_puzzles():
    by_aim = {aim: [m for m in REPORT if SUITE["methods"][m]["aim"] == aim] for aim in ("target", "reward")}
    right = {m: statistics.mean(row["valid"] for row in rows) for m, rows in REPORT.items()}
    lost = {m: sum(row["lost"] for row in rows) for m, rows in REPORT.items()}
    assert "reaches 0.95 or more, except wd1 and `negative`; none of them keeps all modes of all runs" in TEXT
    assert sorted(m for m in by_aim["reward"] if right[m] < 0.95) == ["WDCE, path steps, negative", "wd1"]
    assert all(lost[m] for m in by_aim["reward"])
    assert lost["diffu-GRPO"] == lost["wd1"] == len(REPORT["wd1"]) == 20 and f"GDPO in {lost['GDPO']} of 20" in TEXT
    assert f"the best of three strengths stays at {median_of(REPORT['diffu-GRPO, KL']):.2f}" in TEXT
    many = {m: statistics.median(r["kl_target_policy"] for r in rows) for (_, m, _), rows in by_size(SCORES, "many_puzzles").items()}
    share, plain = many["WDCE, whole path, 1/4 by p_ref"], many["WDCE, whole path, uniform"]
    masks = f"{many['WDCE, masks']:.3f} on masks without a baseline"
    assert f"{share:.3f} nats with and without p_ref's rollouts, {masks}" in TEXT and f"{share:.3f}" == f"{plain:.3f}"
    of_many = [row for row in SCORES if row["part"] == "many_puzzles"]
    assert not any(row["lost"] for row in of_many) and len(of_many) == 3 * 5 and "no puzzle of 160 lost a mode in any of the three" in TEXT


def test_what_is_said_of_the_claims_of_rivals():
    right = {m: f"{statistics.mean(row['valid'] for row in rows):.3f}" for m, rows in REPORT.items()}
    worst = {m: f"{min(row['valid'] for row in rows):.3f}" for m, rows in REPORT.items()}
    price = {m: f"{rows[0]['forward_rows']:,}" for m, rows in REPORT.items()}
    grpo, coupled, espo = right["diffu-GRPO"], right["coupled-GRPO"], right["ESPO"]
    of_schemes = {}
    for line in (RESULTS / "variance.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        of_schemes[row["policy"], row["scheme"]] = row
    pair, alone, nodes = (of_schemes["reference", f"{name}"] for name in ("antithetic, R=2", "exact, R=2", "gauss, R=3"))
    gain, loss = pair["gradient_none_rows"] / alone["gradient_none_rows"], nodes["log_prob_mse_rows"] / alone["log_prob_mse_rows"]
    for sentence in (
        f"right {grpo}, in the worst run {worst['diffu-GRPO']} |",
        f"right {right['wd1']} for {grpo}; {price['wd1']} rows for {price['diffu-GRPO']} |",
        f"right {coupled} for the {grpo} of diffu-GRPO; the variance of the gradient of WDCE is {gain:.2f} of that of independent masks",
        f"right {right['SPG']}; a single pass {grpo}, ELBOs (ESPO) {espo} |",
        f"right {espo}, worst run {worst['ESPO']}; ratios per token {grpo} and {coupled} |",
        f"right {right['GDPO']}; but with three nodes the ELBO's error for each forward row is {loss:.2f} times",
        f"right {right['TraceRL']}; on random masks (coupled-GRPO) {coupled} |",
        f"right {right['AGRPO']} for {grpo} |",
        f"right {right['GDSD']}; ESPO {espo}, GDPO {right['GDPO']} |",
    ):
        assert sentence in TEXT
    rivals = [m for m in REPORT if SUITE["methods"][m]["aim"] == "reward" and not m.startswith(("WDCE", "REINFORCE"))]
    highest = [row for row in SCORES if row["part"] == "tuning" and row["method"] in rivals and row["learning_rate"] == 3e-3]
    assert len(rivals) == 10 and len(highest) == 2 * len(rivals) and min(row["valid"] for row in highest) >= 0.99
    balance, plain, by_variance = (REPORT[m] for m in ("trajectory balance", "REINFORCE", "log-variance"))
    kept = [sum(row["modes"] for row in rows) for rows in (balance, plain)]
    assert f"{median_of(balance):.3f} nats and {kept[0]} of 45 modes; REINFORCE {median_of(plain):.3f} and {kept[1]} |" in TEXT
    assert f"| {median_of(by_variance):.3f} nats | reproduced, with two solutions |" in TEXT
    assert all(row["lost"] for rows in (balance, by_variance) for row in rows if row["world"] == THREE)


def test_what_is_said_of_the_puzzle_with_three_solutions():
    rows = {m: [row for row in found if row["world"] == THREE] for m, found in REPORT.items()}
    rare = min(range(3), key=lambda i: rows["wd1"][0]["target_shares"][i])
    kept = {m: [row["shares"][rare] / row["target_shares"][rare] for row in found] for m, found in rows.items()}
    assert f"The rarest solution has {rows['wd1'][0]['target_shares'][rare]:.3f} of p" in TEXT
    ours = {m for m in rows if m.startswith(("WDCE", "WDDO"))}
    whole = {m: sum(not row["lost"] for row in found) for m, found in rows.items() if m not in ours}
    assert {m: count for m, count in whole.items() if count} == {"ESPO, KL": 1} and "only ESPO with a KL did in one" in TEXT
    never = {m for m in ours if not any(share > 0.5 for share in kept[m])}
    assert never == {"WDCE, masks, uniform", "WDCE, path steps, negative"}
    assert {m for m in ours - never if any(row["lost"] for row in rows[m])} == {"WDDO, path steps"}
    assert sum(row["lost"] for row in rows["WDDO, path steps"]) == 1
    best = sorted((m for m in rows if m not in ours), key=lambda m: median_of(rows[m]))[:3]
    assert {*best} == {"log-variance", "trajectory balance", "REINFORCE, KL"}
    shares = [share for m in best for share in kept[m]]
    assert f"give it between {min(shares):.2f} and {max(shares):.2f} of its share" in TEXT
    assert f"WDCE on masks {min(kept['WDCE, masks']):.2f} to {max(kept['WDCE, masks']):.2f}." in TEXT
    low, high = (f"{median_of(rows[m]):.3f}" for m in (best[0], best[2]))
    mine = (
        f"that of WDCE on masks {median_of(rows['WDCE, masks']):.3f}, of WDDO on the whole path {median_of(rows['WDDO, whole path']):.3f}"
    )
    assert f"Their divergences there are {low} to {high} nats, {mine}" in TEXT


def paired(method: str, other: str) -> np.ndarray:
    """log of the ratio of the divergences of two methods, run by run."""
    kl = {m: {(row["world"], row["seed"]): row["kl_target_policy"] for row in REPORT[m]} for m in (method, other)}
    return np.array([np.log(kl[method][run] / kl[other][run]) for run in kl[other]])


def write_ratio(method: str, other: str) -> tuple[str, str, str]:
    """The median ratio and its interval (bootstrap of the median over the runs)."""
    ratio = paired(method, other)
    return tuple(f"{np.exp(x):.2f}" for x in (np.median(ratio), *interval(ratio)))


def test_what_is_said_of_the_best_methods_and_of_baselines():
    two = {m: [row for row in rows if row["world"] != THREE] for m, rows in REPORT.items()}
    level = ("REINFORCE, KL", "trajectory balance", "log-variance", "WDCE, masks")
    medians = sorted((median_of(rows), m) for m, rows in two.items())
    assert {m for _, m in medians[:4]} == {*level}
    assert f"medians of {medians[0][0]:.3f} to {medians[3][0]:.3f} nats over these three puzzles" in TEXT
    for method, words in (
        ("REINFORCE, KL", "REINFORCE with a KL is at {} times the divergence of WDCE on masks (95 %: {} to {})"),
        ("log-variance", "log-variance at {} ({} to {})"),
        ("trajectory balance", "trajectory balance at {} ({} to {})"),
    ):
        assert words.format(*write_ratio(method, "WDCE, masks")) in TEXT, (method, write_ratio(method, "WDCE, masks"))
    assert "{} times the divergence of masks ({} to {})".format(*write_ratio("WDCE, path steps", "WDCE, masks")) in TEXT
    assert (paired("WDCE, path steps", "WDCE, masks") > 0).all() and "in 20 of 20 runs" in TEXT
    median = {m: f"{median_of(rows):.3f}" for m, rows in REPORT.items()}
    assert f"{median['WDCE, masks, uniform']} on masks, {median['WDCE, path steps, uniform']} on path steps, " in TEXT
    assert f"{median['WDCE, whole path, uniform']} on the whole path; without it {median['WDCE, masks']}, " in TEXT
    assert (
        f"{median['WDCE, path steps']} and {median['WDCE, whole path']}. `model` on path steps: {median['WDCE, path steps, model']}."
        in TEXT
    )
    losses = re.sub(r"\n# ", " ", Path("notebooks/05_two_losses.py").read_text(encoding="utf-8"))
    assert f"on two steps of the path it ends at {median['WDCE, path steps, model']} on the puzzles of" in losses
    assert f"WDDO on two steps ends at {median['WDDO, path steps']} on the puzzles of" in losses
    assert f"where the whole path gives {median['WDDO, whole path']}." in losses
    elbo = median_of(REPORT["WDCE, masks, ELBO weights"])
    assert 3.5 < elbo / median_of(REPORT["WDCE, masks"]) < 4.5 and f"{elbo:.3f}, four times the {median['WDCE, masks']}" in TEXT
