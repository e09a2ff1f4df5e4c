"""The page of the scoreboard: its tables, and the numbers in its sentences, are those of the stored runs."""

import re
import statistics
from pathlib import Path

from toy import RESULTS
from toy.scoreboard.report import by_size, interval, report_rows, write_interval
from toy.scoreboard.run import current_rows, read_rows
from toy.scoreboard.suite import read_suite

PAGE = Path("book/scoreboard.md")
TEXT = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
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
    for (_, method, _), rows in by_size(SCORES, "groups_per_step").items():
        kl = [row["kl_target_policy"] for row in rows]
        right, lost = f"{statistics.mean(row['valid'] for row in rows):.3f}", f"{sum(row['lost'] for row in rows)}/{len(rows)}"
        assert shown[f"{method} 5"] == [f"{statistics.median(kl):.4f}", f"{max(kl):.3f}", right, lost], method


def test_the_sentences_of_the_scoreboard_hold_in_the_stored_runs():
    text, report = TEXT, {method: report_rows(SCORES, method) for method in SUITE["methods"]}
    by_aim = {aim: [m for m in report if SUITE["methods"][m]["aim"] == aim] for aim in ("target", "reward")}
    right = {m: statistics.mean(row["valid"] for row in rows) for m, rows in report.items()}
    all_kept = {m for m, rows in report.items() if not any(row["lost"] for row in rows)}
    assert "reaches 0.95 or more, except `negative`; none of them keeps all modes of all runs, except `negative` again" in text
    assert [m for m in by_aim["reward"] if right[m] < 0.95] == ["WDCE, path steps, negative"] == sorted(all_kept & {*by_aim["reward"]})
    many = {m: statistics.mean(r["kl_target_policy"] for r in rows) for (_, m, _), rows in by_size(SCORES, "many_puzzles").items()}
    share, plain = many["WDCE, whole path, 1/4 by p_ref"], many["WDCE, whole path, uniform"]
    assert f"{share:.3f} nats in the mean over puzzles with p_ref's rollouts, {plain:.3f} without" in text
    assert not any(row["lost"] for row in SCORES if row["part"] == "many_puzzles") and "no puzzle of 96 lost a mode in either" in text
    level = ("REINFORCE, KL", "trajectory balance", "WDCE, masks", "log-variance")
    medians = sorted((statistics.median(row["kl_target_policy"] for row in rows), m) for m, rows in report.items())
    assert {m for _, m in medians[:4]} == {*level} and f"{medians[0][0]:.3f} to {medians[3][0]:.3f} nats, with intervals" in text
    bounds = [interval([row["kl_target_policy"] for row in report[m]]) for m in level]
    assert max(low for low, _ in bounds) < min(high for _, high in bounds)
    baselines = {name: f"{statistics.median(r['kl_target_policy'] for r in report[f'WDCE, {name}']):.3f}" for name in
                 ("masks", "path steps", "whole path", "masks, uniform", "path steps, uniform", "whole path, uniform")}  # fmt: skip
    assert "{masks, uniform} on masks, {path steps, uniform} on path steps, {whole path, uniform} on the whole path; without it {masks}, " \
           "{path steps} and {whole path}".format_map(baselines) in text  # fmt: skip
