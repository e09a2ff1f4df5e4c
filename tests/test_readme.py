"""The README tells the truth: every function it names exists, every file it links to is there, its example runs, its numbers are stored."""

import importlib
import json
import re
import statistics
from pathlib import Path

import pytest

from tests.test_architecture import FLAT, FLOORS
from tests.test_scoreboard_page import SCORES, SUITE
from toy import RESULTS
from toy.scoreboard.report import report_rows
from toy.studies.acts import by_name, lost_mode, share_error

README = Path("README.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\]\((?!http)([^)#]+)\)", README)


def section(title: str) -> str:
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def resolve(name: str):
    """The object of a dotted name such as dmpo_ref.weights.log_weights."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def equation_table() -> list[str]:
    return re.findall(r"`((?:dmpo_ref|toy)\.[\w.]+)`", section("Equation to code"))


def words(text: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def test_it_is_short_and_what_a_newcomer_needs_comes_first():
    assert words(README) <= 1800
    assert LINKS[0] == "dmpo_ref/minimal.py"
    assert words(README.split("## Equation to code")[0]) < words(README) / 3
    assert len(equation_table()) >= 15


@pytest.mark.parametrize("name", sorted(set(equation_table())))
def test_every_function_of_the_equation_table_exists(name):
    assert callable(resolve(name))
    assert resolve(name).__doc__


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_every_linked_file_exists(link):
    assert Path(link).exists()


def test_the_map_names_every_module_and_package_and_only_goes_up():
    """A row stands below the rows of what its modules may import; `minimal`, the page to read first, stands apart."""
    named = [name.removesuffix("/") for name in re.findall(r"\[([\w/]+)\]\(dmpo_ref/", section("Map"))]
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert named[0] == "minimal" and "minimal" in FLAT
    order = [name for name in named if name in floor]
    assert sorted(order) == sorted(floor), set(floor) ^ set(order)
    assert [floor[name] for name in order] == sorted(floor[name] for name in order)


def test_every_make_target_that_is_named_exists():
    makefile = Path("Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def stored(experiment: str, **chosen) -> list[dict]:
    rows = [json.loads(line) for line in (RESULTS / f"{experiment}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if all(row[key] == value for key, value in chosen.items())]


def test_the_numbers_of_the_short_list_are_those_of_the_stored_results():
    shown = section("Results on the toy")
    act_a = stored("act_a", name="reference moves (log_ratio none)")
    rates = {when: [row[when]["temperature_1"] for row in act_a] for when in ("before", "after")}
    assert len(act_a) == 3
    assert f"solve rate {statistics.mean(rates['before']):.3f} → **{statistics.mean(rates['after']):.3f}** at temperature 1" in shown
    greedy = [statistics.mean(row[when]["greedy"] for row in act_a) for when in ("before", "after")]
    assert f"greedy {greedy[0]:.3f} → **{greedy[1]:.3f}**" in shown
    act_b = stored("act_b")
    assert len({row["puzzle"] for row in act_b}) == 3 and len({row["seed"] for row in act_b}) == 5
    assert f"a median of **{statistics.median(row['after']['kl_target_policy'] for row in act_b):.3f}**" in shown
    assert all(0.8 < row["before"]["kl_target_policy"] < 1.05 for row in act_b)  # "about 1 nat"

    fixed = stored("act_a", name="reference fixed (log_ratio path)")
    assert f"with p_ref fixed {statistics.mean(row['after']['temperature_1'] for row in fixed):.3f}" in shown
    runs = {name: report_rows(SCORES, name) for name in SUITE["methods"]}
    kl = {name: f"{statistics.median(row['kl_target_policy'] for row in rows):.3f}" for name, rows in runs.items()}
    assert {len(rows) for rows in runs.values()} == {20}
    for words in (
        f"`log_ratio: path`: {kl['WDCE, masks']} with random masks in the loss and no baseline; ",
        f"{kl['WDCE, masks, ELBO weights']} with weights from ELBOs, ",
        f"{kl['WDCE, masks, uniform']} on two masks, {kl['WDCE, path steps, uniform']} on two steps of the path, ",
        f"{kl['WDCE, whole path, uniform']} on the whole path",
    ):
        assert words in shown
    again = (
        f"`uniform` on masks is at {kl['WDCE, masks, uniform']} and weights from ELBOs at {kl['WDCE, masks, ELBO weights']}, four times "
    )
    assert f"{again}the {kl['WDCE, masks']} of weights along the path" in Path("book/results.md").read_text(encoding="utf-8")


def test_the_tables_of_the_book_s_results_are_those_of_the_stored_results():
    page = Path("book/results.md").read_text(encoding="utf-8")

    def median_and_largest(rows: list[dict]) -> list[str]:
        kl = [row["after"]["kl_target_policy"] for row in rows]
        return [f"{statistics.median(kl):.3f}", f"{max(kl):.3f}"]

    # (loss, likelihood, weights, baseline) of the page → name of the stored runs
    names = {
        ("WDCE", "masks", "path", "none"): "wdce, none",
        ("WDCE", "masks", "path", "uniform"): "wdce, uniform",
        ("WDCE", "masks", "path", "negative"): "wdce, negative",
        ("WDCE", "2 steps of the path", "path", "none"): "wdce, none, path steps",
        ("WDCE", "2 steps of the path", "path", "uniform"): "wdce, uniform, path steps",
        ("WDCE", "path", "path", "none"): "wdce, none, path likelihood",
        ("WDCE", "path", "path", "uniform"): "wdce, uniform, path likelihood",
        ("WDCE", "path", "path", "model"): "wdce, model",
        ("WDDO", "path", "path", "–"): "wddo, path likelihood",
        ("WDDO", "masks (ELBO)", "path", "–"): "wddo, elbo",
        ("WDCE", "masks", "ELBO", "none"): "wdce, none, elbo weights",
    }
    lines = re.findall(r"^\| (WD(?:CE|DO) \|.*) \|$", page, re.MULTILINE)
    rows = [tuple(cell.strip(" *") for cell in line.split("|")) for line in lines]
    assert {row[:4]: list(row[4:]) for row in rows} == {
        shown: median_and_largest(stored("variants", name=name)) for shown, name in names.items()
    }

    after = [row["after"]["temperature_1"] for row in stored("act_a", name="reference moves (log_ratio none)")]
    assert f"→ **{statistics.mean(after):.3f}** ({min(after):.3f} to {max(after):.3f})" in page
    for name, shown in (("240 rounds", "**{:.3f}** ({:.3f} to {:.3f})"), ("equal groups replaced, 4 masks", "{:.3f} ({:.3f} to {:.3f})")):
        more = [row["after"]["temperature_1"] for row in stored("act_a_more", name=name)]
        assert len(more) == 3 and shown.format(statistics.mean(more), min(more), max(more)) in page
    replaced, plain = (stored(file, name=name)[0]["rollouts"] for file, name in
                       (("act_a_more", "equal groups replaced, 4 masks"), ("act_a", "reference moves (log_ratio none)")))  # fmt: skip
    assert f"{replaced / plain:.1f} times the rollouts" in page
    fixed = stored("act_a", name="reference fixed (log_ratio path)")
    assert f"0.247 → {statistics.mean(row['after']['temperature_1'] for row in fixed):.3f}, greedy 1.000" in page
    before = [row["before"]["kl_target_policy"] for row in stored("act_b")]
    median, largest = median_and_largest(stored("act_b"))
    assert f"{min(before):.2f} to {max(before):.2f} → median **{median}**, largest {largest} nats" in page
    assert f"within {max(map(share_error, stored('act_b'))):.3f} of p" in page
    lost = {name: sum(map(lost_mode, rows)) for name, rows in by_name(stored("group_size")).items()}
    assert lost == {"N=4, 1 group": 7, "N=4, 16 groups": 0, "N=16": 0, "N=64": 0, "N=256": 0}
    assert "7 of 9 runs lose a solution" in page


def test_the_python_example_has_about_ten_lines_and_trains(tmp_path, monkeypatch, capsys):
    example = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "reward" in block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    first, last = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert last > first + 0.1
