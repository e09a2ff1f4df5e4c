"""The tables and figures of studies, from their stored rows: the numbers are those of the rows, the figures are pictures."""

import json
import statistics

from toy import RESULTS
from toy.figures.paper import draw_figure_3
from toy.studies import acts, objectives, paper, unimodal, variance


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_table_of_the_acts_has_the_medians_of_the_stored_runs(capsys):
    acts.show()
    printed = capsys.readouterr().out
    rates = [row["after"]["temperature_1"] for row in rows_of("act_a")]
    kl = statistics.median(row["after"]["kl_target_policy"] for row in rows_of("act_b"))
    assert f"{kl:.3f}" in printed
    assert any(f"{rate:.3f}" in printed for rate in rates)


def test_the_table_of_objectives_names_each_and_its_median(capsys):
    objectives.show()
    printed = capsys.readouterr().out
    finals = [row for row in rows_of("objectives") if row["kind"] == "final"]
    assert all(name in printed for name in {row["name"] for row in finals})
    of_dmpo = [row["after"]["kl_target_policy"] for row in finals if row["name"] == "WDCE (DMPO)"]
    assert f"{statistics.median(of_dmpo):.3f}" in printed


def test_the_table_of_variances_has_every_scheme(capsys):
    rows = rows_of("variance")
    variance.show(rows)
    printed = capsys.readouterr().out
    assert all(row["scheme"] in printed and f"{row['log_prob_mse_rows']:.4f}" in printed for row in rows)


def test_what_the_target_leaves_out_is_shown_and_drawn(tmp_path, capsys):
    rows = rows_of("unimodal")
    unimodal.show(rows)
    assert capsys.readouterr().out.count("\n") > 4
    unimodal.draw(rows, tmp_path / "u.png")
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")


def test_the_figures_1_4_and_5_of_the_paper_are_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "RUNS", range(2))
    paper.show()
    assert "WDCE" in (printed := capsys.readouterr().out) or "DMPO" in printed
    paper.draw(tmp_path)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("paper_1_and_4.png", "paper_5.png"))


def test_figure_3_of_the_paper_is_drawn(tmp_path):
    draw_figure_3(tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
