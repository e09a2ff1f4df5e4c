"""Why `uniform` needs a likelihood along the path: exact facts on two tokens, and the stored runs."""

import math
from pathlib import Path

import pytest
import torch

from toy.studies import orders
from toy.tabular import two_tokens

ROOT = Path(__file__).parent.parent
THETA = torch.tensor([[0.3, -0.8, 0.6], [-0.2, 1.0, 0.4]], dtype=torch.float64)
LOG_TARGET = torch.tensor([0.45, 0.05, 0.05, 0.45], dtype=torch.float64).log()


def gap(theta: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Σ_o p(o) (log p_θ(o) − ELBO(o)), p fixed, written out for two binary tokens."""
    one, total = theta.sigmoid(), torch.zeros((), dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            first = (one[0, 0] if a else 1 - one[0, 0]) * (one[1, 1 + a] if b else 1 - one[1, 1 + a])
            second = (one[1, 0] if b else 1 - one[1, 0]) * (one[0, 1 + b] if a else 1 - one[0, 1 + b])
            total = total + p[2 * a + b] * (((first + second) / 2).log() - (first.log() + second.log()) / 2)
    return total


def test_on_masks_the_baseline_adds_the_gradient_of_the_gap_and_along_the_path_nothing():
    """By finite differences of the gap; the two tokens' ELBO is the mean of both orders."""
    with_it, without = (orders.expected_step(THETA, LOG_TARGET, name, "masks") for name in ("uniform", "none"))
    p, found = two_tokens(THETA).log_prob().exp(), torch.zeros(2, 3, dtype=torch.float64)
    for i in range(6):
        change = torch.zeros(6, dtype=torch.float64)
        change[i] = 1e-5
        found.view(-1)[i] = (gap(THETA + change.view(2, 3), p) - gap(THETA - change.view(2, 3), p)) / 2e-5
    torch.testing.assert_close(with_it - without, found, rtol=0, atol=1e-9)
    assert found.norm() > 0.05
    path = [orders.expected_step(THETA, LOG_TARGET, name, "path") for name in ("uniform", "none")]
    torch.testing.assert_close(*path, rtol=0, atol=1e-12)


def test_at_half_strength_the_orders_come_together():
    theta = THETA
    for _ in range(3000):
        both = [orders.expected_step(theta, LOG_TARGET, name, "masks") for name in ("none", "uniform")]
        theta = theta + 0.3 * (both[0] + both[1]) / 2  # w − ½ p_old is the mean of w and w − p_old
    assert gap(theta, two_tokens(theta).log_prob().exp()) < 1e-4


@pytest.mark.parametrize(("baseline", "likelihood"), [("none", "masks"), ("none", "path"), ("uniform", "path")])
def test_exact_steps_reach_the_target_and_its_orders(baseline, likelihood):
    end = orders.ends(THETA, LOG_TARGET, baseline, likelihood)
    assert max(map(abs, (end.answers, end.paths, end.gap))) < 1e-4


def test_with_uniform_on_masks_the_answers_are_right_and_the_orders_stay_wrong():
    end = orders.ends(THETA, LOG_TARGET, "uniform", "masks")
    assert abs(end.answers) < 1e-4 and end.gap > 0.05
    assert end.paths == pytest.approx(end.gap, abs=1e-4)  # KL with orders = KL of answers + what the orders differ
    # and it is a point of rest: the same answers under other orders
    theta = THETA
    for _ in range(3000):
        theta = theta + 0.3 * orders.expected_step(theta, LOG_TARGET, "uniform", "masks")
    assert orders.expected_step(theta, LOG_TARGET, "uniform", "masks").norm() < 1e-4
    assert orders.expected_step(theta, LOG_TARGET, "none", "masks").norm() > 0.02
    assert gap(theta, two_tokens(theta).log_prob().exp()).item() == pytest.approx(end.gap, abs=1e-9)


def test_in_the_stored_runs_more_masks_do_not_help_and_the_gap_is_large():
    """The notebook, the results page and the course say so."""
    found = {name: orders.medians(name) for name in orders.RUNS}
    assert {(row["name"], row["seed"]) for row in orders.read()} == {(name, seed) for name in orders.RUNS for seed in orders.SEEDS}
    assert found["uniform, 32 masks"][0] > 0.9 * found["uniform, 2 masks"][0] > 3 * found["none, 2 masks"][0]
    assert found["uniform, path"][0] < 0.5 * found["uniform, 2 masks"][0]
    pages = ("notebooks/04_weight_baseline.py", "book/results.md", "book/teaching/decks/3_losses_and_evidence.md")
    said = [" ".join((ROOT / page).read_text(encoding="utf-8").split()) for page in pages]
    notebook = said[0].replace("# ", "")
    half = found["uniform at strength ½, 2 masks"]
    assert half[0] < 0.6 * found["uniform, 2 masks"][0] and half[1] < 0.2 * found["uniform, 2 masks"][1]
    assert f"At strength ½ it does so less: {half[0]:.3f} nats, where strength 1 ends at {found['uniform, 2 masks'][0]:.3f}" in said[1]
    assert "the fourth row of the first table" in notebook and list(found).index("uniform at strength ½, 2 masks") == 3
    for name in ("uniform, 2 masks", "uniform, 32 masks"):
        assert found[name][1] > 5 * max(found["none, 2 masks"][1], found["uniform, path"][1])
    assert all("contradict each other" in text for text in said)
    assert "Sixteen times as many masks do not help." in said[0] and all("ore masks do not help" in text for text in said[1:])


def test_a_second_call_runs_nothing_that_is_stored(monkeypatch, capsys):
    monkeypatch.setattr(orders, "match_target", lambda *_, **__: pytest.fail("a stored run was run again"))
    orders.run()
    assert math.isfinite(sum(orders.medians("uniform, path")))
