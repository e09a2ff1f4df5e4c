"""The pictures of the notebooks show the numbers that they are given."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from dmpo_ref.config import SamplerConfig
from dmpo_ref.masking import Masks
from dmpo_ref.rollout import Rollout
from toy.figures.likelihood import draw_bound, draw_mask_schemes, draw_orders, draw_schedules
from toy.figures.losses import draw_minima, draw_schemes, draw_wddo
from toy.figures.modes import draw_dropped, draw_far_mode, draw_fits
from toy.figures.rivals import draw_columns, draw_control, draw_runs, draw_solutions
from toy.figures.samplers import draw_boards, draw_fed, draw_strips, draw_tradeoffs
from toy.figures.weights import draw_descent, draw_drift, draw_first_step, draw_ratios, draw_rollouts, draw_self_normalising
from toy.oracle import Exact
from toy.worlds.mixture import BASELINES, make_world
from toy.worlds.sentences import Library, draw

REWARD = torch.tensor([0.0, 0.25, 1.0, 0.5, 2.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def heights(ax):
    return [[bar.get_height() for bar in bars] for bars in ax.containers]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


DIGITS = SimpleNamespace(decode=lambda ids: str(ids[0]))


def filled_boards(N):
    """N boards with rows 1234, filled cell by cell; the first one has log p(o; σ) = −1, the next −2, …"""
    tokens, step = torch.tensor([1, 2, 3, 4] * 4).expand(1, N, 16), torch.arange(16).expand(1, N, 16)
    here = torch.ones(1, N, 16, dtype=torch.bool)
    return Rollout(tokens, here, ~here, here, step, -torch.arange(1, N + 1)[None].double(), 16, SamplerConfig(), 16, 256)


def test_rollouts_on_a_line_weigh_one_and_the_bars_are_in_order():
    world = make_world(16, ([[0.0]], 2.0, [1.0]), ([[-2.0], [2.0]], 0.6, [1.0, 1.5]), 1.0)
    left, right = draw_rollouts(world, 1e9, 10).axes  # α → ∞: all weights are 1/N
    sticks = next(lines for lines in left.collections if lines.get_label() == "weight of the rollouts there")
    tops = np.array([segment[1, 1] for segment in sticks.get_segments()])
    assert len(tops) == 16 and tops.sum() == pytest.approx(1)
    assert heights(right)[0] == pytest.approx([1.0] * 10)
    assert right.get_title() == "ESS = 1.00"
    (bars,) = heights(draw_rollouts(world, 0.2, 10).axes[1])
    assert bars == sorted(bars, reverse=True) and sum(bars) == pytest.approx(10)


def test_expected_weights_by_group_size_and_divergence_by_round():
    expected = {2: torch.tensor([0.4, 0.3, 0.2, 0.1]), 8: torch.tensor([0.3, 0.3, 0.2, 0.2])}
    left, right = draw_self_normalising(expected, torch.full((4,), 0.25), {4: [1.0, 0.1], 16: [1.0, 0.01]}).axes
    curves = [line for line in left.get_lines() if line.get_label().startswith("answer")]
    np.testing.assert_allclose([line.get_ydata() for line in curves], torch.stack(list(expected.values())).T)
    assert all(list(line.get_xdata()) == [2, 8] for line in curves)
    assert [list(line.get_ydata()) for line in right.get_lines()] == [[1.0, 0.1], [1.0, 0.01]]
    assert legend(right) == ["N = 4", "N = 16"]


def test_estimated_against_true_ratios():
    truth = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    estimates = {"path": truth + 1, "masks": 2 * truth, "none": 0 * truth}
    panels = draw_ratios(truth, estimates, {"path": 1.0, "masks": 1.5, "none": 1.5}).axes
    for panel, estimate in zip(panels, estimates.values(), strict=True):
        dots = panel.get_lines()[0]
        np.testing.assert_allclose(np.stack(dots.get_data()), torch.stack([truth.flatten(), estimate.flatten()]))
    assert panels[1].get_title() == "masks: error 1.50 nats"


def test_answers_before_and_after_steps_on_a_group():
    ends = {(name, steps): torch.arange(5) * steps / 1000 for name in ("none", "uniform", "model") for steps in (4, 40, 400)}
    panels = draw_descent(torch.full((5,), 0.2), ends, (4, 400), REWARD, torch.full((5,), 0.3)).axes
    for ax, name in zip(panels, ("none", "uniform", "model"), strict=True):
        assert ax.get_title() == f"baseline {name}"
        np.testing.assert_allclose(heights(ax), torch.stack([torch.full((5,), 0.2), ends[name, 4], ends[name, 400]]), rtol=1e-6)
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["A\nr=0", "B\nr=0.25", "C\nr=1", "D\nr=0.5", "E\nr=2"]
    assert sorted(legend(panels[2])) == ["4 steps", "400 steps", "p$_{old}$", "p*"]


def test_the_middle_line_of_many_runs_is_their_median():
    runs = torch.arange(101, dtype=torch.float64).expand(3, -1) / 100
    curves = {key: {name: runs * (k + 1) for k, name in enumerate(BASELINES)} for key in ((1.0, 4), (2.0, 16))}
    first, second = draw_drift(curves).axes
    assert (first.get_title(), second.get_title()) == ("N = 4, rate 1", "N = 16, rate 2")
    assert [line.get_ydata().tolist() for line in first.get_lines()] == [[0.5 * (k + 1)] * 3 for k in range(4)]
    band = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.05, 0.95))
    assert legend(second) == list(BASELINES)


def test_the_first_step_has_its_mean_and_its_standard_deviation():
    found = {name: (REWARD / 10 * k, torch.full((5,), 0.04, dtype=torch.float64)) for k, name in enumerate(BASELINES)}
    (ax,) = draw_first_step(found, REWARD, "a step").axes
    bars = [container for container in ax.containers if hasattr(container, "patches")]
    np.testing.assert_allclose([[bar.get_height() for bar in group] for group in bars], torch.stack([mean for mean, _ in found.values()]))
    errors = bars[2].errorbar.lines[2][0].get_segments()
    np.testing.assert_allclose([segment[1, 1] - segment[0, 1] for segment in errors], [0.4] * 5)
    assert ax.get_title() == "a step" and legend(ax) == list(BASELINES)


def test_the_loss_of_a_rollout_has_its_minimum_at_the_dot():
    left, right = draw_wddo((0.1, 1.0, 3.0)).axes
    curves, dots = left.get_lines()[::2], left.get_lines()[1::2]
    pulls = right.get_lines()[::2]
    for curve, dot, pull in zip(curves, dots, pulls, strict=True):
        x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
        assert x[y.argmin()] == pytest.approx(dot.get_xdata()[0], abs=x[1] - x[0])
        assert y.min() == pytest.approx(dot.get_ydata()[0], abs=1e-3)
        np.testing.assert_allclose(-np.gradient(y, x)[1:-1], np.asarray(pull.get_ydata())[1:-1], atol=1e-3)


def test_every_mask_every_pair_every_scheme():
    cost = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)  # none, first, second, both of two tokens
    sides = torch.tensor([[2.0, 4.0]], dtype=torch.float64)
    left, centre, right = draw_schemes(cost, 3.25, sides, {"exact": (3.25, 1.0), "paper": (3.0, 0.5)}).axes
    dots = [line for line in left.get_lines() if line.get_label() != "exact NELBO"]
    assert [list(np.asarray(line.get_ydata())) for line in dots] == [[2.0, 4.0], [5.0]]
    assert [list(line.get_xdata()) for line in dots] == [[1, 1], [2]]
    assert (centre.get_lines()[0].get_xdata()[0], centre.get_lines()[0].get_ydata()[0]) == (4.0, 2.0)
    assert centre.get_title() == "The 1 pairs"
    assert [bars.lines[0].get_ydata()[0] for bars in right.containers] == [3.25, 3.0]
    assert [label.get_text() for label in right.get_xticklabels()] == ["exact", "paper"]


def test_minima_by_number_of_masks_and_the_four_answers_there():
    ends = {name: torch.full((4,), 0.1 * k) for k, name in enumerate(("path", "all", "one"), start=1)}
    left, right = draw_minima({1: 0.1, 4: 0.02}, 0.003, ends, torch.full((4,), 0.25)).axes
    assert left.get_lines()[0].get_xydata().tolist() == [[1, 0.1], [4, 0.02]]
    assert left.get_lines()[1].get_ydata()[0] == 0.003
    np.testing.assert_allclose(heights(right), [[0.1] * 4, [0.2] * 4, [0.3] * 4, [0.25] * 4], rtol=1e-6)
    assert legend(right) == ["path", "all", "one", "p*"]


def test_modes_dropped_are_those_below_the_threshold():
    some = torch.full((6, 5), 1.0, dtype=torch.float64)
    some[0, :3] = 0.05  # three modes of the first start, one of the last
    some[5, 4] = 0.09
    ratios = {("forward", 1): 0 * some, ("forward", 3): some, ("reverse", 1): some, ("reverse", 3): 2 * some}
    left, centre, right, scale = draw_dropped(ratios, shown=3, threshold=0.1).axes
    assert (left.get_title(), centre.get_title()) == ("forward, 3 Gaussians", "reverse, 3 Gaussians")
    np.testing.assert_allclose(left.images[0].get_array(), some)
    np.testing.assert_allclose(centre.images[0].get_array(), 2 * some)
    assert [line.get_xydata().tolist() for line in right.get_lines()] == [[[1, 5], [3, 4 / 6]], [[1, 4 / 6], [3, 0]]]
    assert legend(right) == ["forward", "reverse"] and scale.get_ylabel() == "share / share under p*"


def test_the_far_mode_and_what_its_fits_pay():
    share = {"forward": [0.5, 0.4], "reverse": [0.5, 0.0], "reverse, broad": [0.5, 0.3]}
    cost = {"reverse": [0.0, 0.69], "reverse, broad": [0.0, 1.0]}
    left, right = draw_far_mode((1.0, 2.0), share, cost).axes
    assert [line.get_xydata().tolist() for line in left.get_lines()] == [[[1, a], [2, b]] for a, b in share.values()]
    assert [list(line.get_ydata()) for line in right.get_lines() if line.get_label() in cost] == list(cost.values())
    assert (legend(left), legend(right)) == (list(share), list(cost))
    # A fit has one color in both panels.
    colors = [{line.get_label(): line.get_color() for line in ax.get_lines()} for ax in (left, right)]
    assert all(colors[0][name] == colors[1][name] for name in cost)


def test_fits_on_a_line_are_densities():
    world = make_world(16, ([[0.0]], 2.0, [1.0]), ([[-2.0], [2.0]], 0.6, [1.0, 1.5]), 1.0)
    (ax,) = draw_fits(world, world.log_ref, world.log_target, "two fits").axes
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in ax.get_lines()}
    assert {name: y.sum() * 12 / 15 for name, y in curves.items()} == pytest.approx(dict.fromkeys(curves, 1.0))
    np.testing.assert_allclose(curves["fit by KL(p*‖p$_θ$), forward"], curves["reference p$_{ref}$"])
    assert ax.get_title() == "two fits"


def test_strips_and_boards_show_the_text_and_frame_the_clues():
    library = Library({"a b": 0.6, "c d": 0.4}, length=2)
    rollouts = {"one at a time": draw(library, "confidence"), "at once": draw(library, "random", steps=1)}
    strips = draw_strips(library, rollouts).axes
    assert [ax.get_title(loc="left") for ax in strips] == ["one at a time: 2 forwards", "at once: 1 forward"]
    assert [text.get_text() for text in strips[0].texts] == ["a", "b"]
    rollout = filled_boards(1)
    first, second = draw_boards(DIGITS, {"a": rollout, "b": rollout}, "0" * 5 + "2" + "0" * 9 + "4").axes
    assert (first.get_title(), second.get_title()) == ("a: 16 forwards", "b: 16 forwards")
    frames = [patch for patch in first.patches if not patch.get_fill()]
    assert [(frame.get_x() // 1, frame.get_y() // 1) for frame in frames] == [(1, 1), (3, 3)]  # cells 5 and 15
    assert [text.get_text() for text in second.texts] == list("1234" * 4)


def test_a_curve_for_each_sampler_and_a_row_for_each_pass():
    points = [(16.0, 0.3), (4.0, 0.2)]
    left, right = draw_tradeoffs({"one": {"random": points}, "two": {"wino": points[:1], "factor": points}}).axes
    assert [line.get_xydata().tolist() for line in right.get_lines()] == [[[16, 0.3]], [[16, 0.3], [4, 0.2]]]
    assert legend(right) == ["wino", "factor"] and (left.get_title(), right.get_title()) == ("one", "two")
    fed = torch.ones(8, 4)
    fed[1:, :2] = 0
    left, right = draw_fed({"none": torch.ones(8, 4), "dual": fed}, prompt_length=2).axes
    assert (left.get_title(), right.get_title()) == ("cache=none: 32 tokens", "cache=dual: 18 tokens")
    np.testing.assert_allclose(right.images[0].get_array(), fed)
    assert right.get_lines()[0].get_xdata()[0] == 1.5


def test_two_solutions_on_boards():
    solutions = ["1234341221434321", "1234341243212143"]
    for ax, solution, name in zip(draw_solutions("1234341200000000", solutions).axes, solutions, "12", strict=True):
        assert "".join(text.get_text() for text in ax.texts) == solution and ax.get_title() == f"solution {name}"
        assert not ax.patches, "no cell breaks a rule"


def test_a_mark_for_each_run_at_its_objective():
    def run(N, kl, shares):
        return {"num_rollouts": N, "after": {"kl_target_policy": kl, "shares": shares}}

    final = {"first": [run(4, 0.1, [0.6, 0.3]), run(4, 0.2, [0.2, 0.7])], "second": [run(64, 1.0, [0.9, 0.0])]}
    left, right = draw_runs(final, rarer=0.38).axes
    marks = [[line.get_xydata().tolist() for line in ax.get_lines()] for ax in (left, right)]
    assert marks[0] == [[[0.1, -0.2], [0.2, -0.2]], [], [], [], [], [[1.0, 1.2]]]
    assert marks[1][:6] == [[[0.3, -0.2], [0.2, -0.2]], [], [], [], [], [[0.0, 1.2]]]
    assert right.get_lines()[6].get_xdata()[0] == 0.38
    assert [label.get_text() for label in left.get_yticklabels()] == ["first", "second"]
    assert legend(left) == ["N = 4", "N = 16", "N = 64"]


def test_columns_of_probabilities_side_by_side():
    columns = {name: [k / 10] * 7 for k, name in enumerate(("reference", "one", "another", "p*"), start=1)}
    (ax,) = draw_columns(columns, others=1018, title="where it is").axes
    np.testing.assert_allclose(heights(ax), list(columns.values()))
    assert legend(ax) == list(columns) and ax.get_title() == "where it is"
    names = [label.get_text().replace("\n", " ") for label in ax.get_xticklabels()]
    assert names == ["solution 1", "solution 2", "wrong 1", "wrong 2", "wrong 3", "wrong 4", "1,018 others"]


def test_marginals_beside_the_solutions_and_the_region_of_products():
    first_step = {"reference": [0.3, 0.4], "one-shot WDCE": [0.6, 0.5], "p*": [0.62, 0.6]}
    shares = {"reference": [0.2, 0.1], "one-shot WDCE": [0.4, 0.2], "p*": [0.6, 0.4]}
    left, right = draw_control(first_step, shares).axes
    assert {line.get_label(): list(line.get_ydata()) for line in left.get_lines()} == first_step
    found = {line.get_label(): [*line.get_xdata(), *line.get_ydata()] for line in right.get_lines()}
    assert {name: found[name] for name in shares} == shares
    # The edge of the region for answers that differ in two cells: √q(1) + √q(2) = 1.
    edge = right.collections[0].get_paths()[0].vertices
    edge = edge[edge[:, 1] > 0]
    assert len(edge) > 300
    np.testing.assert_allclose(np.sqrt(edge).sum(axis=1), 1, atol=1e-5)
    assert [label.get_text() for label in left.get_xticklabels()] == ["cell 1", "cell 2"]


def test_four_answers_as_strips_with_the_probabilities_of_their_paths():
    axes = draw_orders(DIGITS, filled_boards(4)).axes[0]
    assert "".join(text.get_text().strip() for text in axes.texts) == "1234" * 16
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"log p(o; σ) = -{n}.00 nats" for n in (1, 2, 3, 4)]
    blind = filled_boards(4)
    blind.path_log_prob = None
    with pytest.raises(ValueError, match="the sampler random_order gives no log p"):
        draw_orders(DIGITS, blind)


def test_a_bound_lies_below_and_both_are_those_of_the_orders():
    """Two orders with 0.2 and 0.4: log p = log 0.3, ELBO = log √0.08."""
    exact = Exact(list("abc"), torch.zeros(3, 1), torch.tensor([0.3, 0.6, 0.1]).log(), torch.tensor([-2.0, -1.0, -4.0]))
    left, centre, right = draw_bound(torch.tensor([0.2, 0.4]).log(), exact, [1, 0], [0.7, 0.2], num_samples=10).axes
    lines = {line.get_label(): line.get_xdata()[0] for line in left.get_lines()}
    assert lines == pytest.approx({"log p(o)": np.log(0.3), "ELBO: their mean": np.log(0.08) / 2})
    assert left.get_ylabel() == "orders, of 2" and sum(bar.get_height() for bar in left.patches) == 2
    np.testing.assert_allclose(heights(centre), [[0.6, 0.3], [0.7, 0.2]], rtol=1e-6)
    assert legend(centre) == ["exact", "10 samples"]
    dots = right.get_lines()[1]
    np.testing.assert_allclose(dots.get_xydata(), [[np.log(0.6), -1], [np.log(0.3), -2]], rtol=1e-6)


def test_how_often_a_schedule_draws_a_size_and_how_it_is_weighed():
    how_often = {name: np.full(5, k / 10) for k, name in enumerate(("linear", "square", "cosine"), start=1)}
    weights = {name: (np.array([0.1, 0.9]), np.array([5.0, k])) for k, name in enumerate(how_often)}
    left, right = draw_schedules(how_often, weights).axes
    assert [list(line.get_ydata()) for line in left.get_lines()] == [[k / 10] * 5 for k in (1, 2, 3)]
    assert [line.get_xydata().tolist() for line in right.get_lines()] == [[[0.1, 5], [0.9, k]] for k in range(3)]
    assert left.get_xlabel() == "hidden tokens m of L = 4" and legend(left) == list(how_often)


def test_masks_of_schemes_are_dark_where_they_hide_and_have_their_weights():
    hidden = torch.zeros(1, 1, 2, 16, dtype=torch.bool)
    hidden[0, 0, 0, :4], hidden[0, 0, 1, 8] = True, True
    masks = Masks(hidden, hidden, torch.tensor([[[4.0, 16.0]]]))
    first, second = draw_mask_schemes({"exact": masks, "paper": masks}).axes
    assert first.images[0].get_array().tolist() == hidden[0, 0].tolist()
    assert [text.get_text() for text in second.texts] == ["4", "16", "weight"]
    assert (first.get_title(), second.get_title()) == ("exact", "paper")
    assert [label.get_text() for label in first.get_yticklabels()] == ["1", "2"]
