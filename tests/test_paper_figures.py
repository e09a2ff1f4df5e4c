"""The page of the paper's figures: its numbers are those of the stored runs and of the figures' own computations."""

import re
import statistics
from pathlib import Path

import pytest
import torch

from dmpo_ref.masking import stream
from toy.figures.paper import LARGE, RATE, SEED, SIZES, SMALL, WIDTH, fit_exactly, mixture_target, one_update, three_modes
from toy.oracle import kl_divergence
from toy.studies.acts import by_name, read
from toy.studies.paper import best_learning_rate
from toy.worlds.mixture import draw_cells

PAGE = Path(__file__).parent.parent / "book" / "paper.md"
TEXT = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))


def test_the_papers_figures_are_told_as_they_were_run():
    final = [row for row in read("paper") if row["kind"] == "final"]
    rates = {name: [row["after"]["temperature_1"] for row in rows] for name, rows in by_name(final).items()}
    assert f"0.247, diffu-GRPO {statistics.mean(rates['diffu-GRPO']):.3f}, DMPO **{statistics.mean(rates['DMPO']):.3f}**" in TEXT
    assert min(rates["DMPO"]) > max(rates["diffu-GRPO"]) and len(final) == 6
    sweep = [row for row in read("paper") if row["kind"] == "sweep"]
    for name, rows in by_name(sweep).items():  # the final runs are at the rate that solves most
        most = max(rows, key=lambda row: row["after"]["temperature_1"])["learning_rate"]
        assert {row["learning_rate"] for row in by_name(final)[name]} == {most} == {best_learning_rate(name)}


@pytest.fixture(scope="module")
def fits():
    return {(K, forward): fit_exactly(mixture_target(), K, forward=forward) for K in SIZES for forward in (True, False)}


def test_one_gaussian_has_the_moments_of_the_target_or_one_mode(fits):
    world = mixture_target()
    x = world.points[:, 0]

    def moments(log_prob):
        p = log_prob.exp()
        mean = p @ x
        return mean.item(), (p @ (x - mean) ** 2).sqrt().item()

    # The grid cuts the Gaussian off, so that its mean and spread are those of p* only nearly.
    assert moments(fits[1, True]) == pytest.approx(moments(world.log_target), abs=0.25)
    assert max(world.mode_mass(fits[1, False])) > 0.99
    assert "one Gaussian: forward KL has the mean and spread of p\\*, reverse KL one mode" in TEXT


def test_how_many_modes_each_fit_keeps(fits):
    world = mixture_target()
    target = world.mode_mass(world.log_target)
    assert target.tolist() == pytest.approx([0.33, 0.28, 0.39], abs=0.005)  # as the docstring of the world says
    kept = {key: int((world.mode_mass(log_prob) > target / 10).sum()) for key, log_prob in fits.items()}
    assert kept == {(1, True): 3, (2, True): 3, (3, True): 3, (1, False): 1, (2, False): 2, (3, False): 3}
    assert kl_divergence(world.log_target, fits[3, True]) < 1e-3 and kl_divergence(fits[3, False], world.log_target) < 1e-3


@pytest.mark.parametrize("baseline", ["none", "uniform"])
def test_an_update_is_a_gradient_step_of_a_smooth_policy(baseline):
    """By autograd: log-scores z = K u with the kernel K; descent on the weighted log-likelihood in z, passed through K."""
    world = three_modes()
    cells = draw_cells(world.log_ref, (SMALL,), stream(SEED, "figure 3"))
    after, real = one_update(world, cells, baseline)
    assert real.sum().item() == pytest.approx(1.0 if baseline == "none" else 0.0, abs=1e-12)
    z = world.log_ref.clone().requires_grad_()
    (real * z.log_softmax(0)[cells]).sum().backward()
    x = world.points[:, 0]
    gaussian = torch.exp(-((x.unsqueeze(1) - x) ** 2) / (2 * WIDTH**2))
    kernel = gaussian / gaussian.sum(dim=1, keepdim=True) / (x[1] - x[0])
    assert torch.allclose(after, (world.log_ref + RATE * kernel @ z.grad).log_softmax(0), atol=1e-12)


def test_what_the_update_does_is_what_the_page_says():
    world, changes, falls = three_modes(), [], []
    good = world.points[:, 0] > 1.5
    for N, baseline in ((LARGE, "none"), (SMALL, "none"), (SMALL, "uniform")):
        cells = draw_cells(world.log_ref, (N,), stream(SEED, "figure 3"))
        after, real = one_update(world, cells, baseline)
        changes.append(kl_divergence(world.log_target, after) - kl_divergence(world.log_target, world.log_ref))
        falls.append((after.exp()[good].sum() - world.log_ref.exp()[good].sum()).item())
        if N == SMALL:
            assert not good[cells].any()  # the small group misses the good mode
            assert (real > 0).all() == (baseline == "none")
    shown = "changes by {:+.2f}, {:+.2f} and {:+.2f} nats".format(*changes).replace("-", "−")
    assert shown in TEXT
    assert falls[0] > 0.02 and falls[1] < -0.02 and abs(falls[2]) < 0.01


def test_what_happens_on_average_is_what_the_page_says():
    """400 groups of four: the mean change of the divergence, and how often it rises; the bad mode falls with and without a baseline."""
    world = three_modes()
    bad, before = world.points[:, 0] < -1.5, kl_divergence(world.log_target, world.log_ref)
    mean, rises = {}, {}
    for baseline in ("none", "uniform"):
        steps = [one_update(world, draw_cells(world.log_ref, (SMALL,), stream(s, "figure 3 seeds")), baseline)[0] for s in range(400)]
        changes = [kl_divergence(world.log_target, after) - before for after in steps]
        mean[baseline], rises[baseline] = statistics.mean(changes), sum(change > 0 for change in changes) / 400
        assert statistics.mean((after.exp()[bad].sum() - world.log_ref.exp()[bad].sum()).item() for after in steps) < -0.02
    assert "by −{:.2f} without and −{:.2f} with the baseline".format(*(-x for x in mean.values())) in TEXT
    assert "it rises after {:.2f} and {:.2f} of them".format(*rises.values()) in TEXT
