"""The pictures that notebooks 03 and 05 open with show what their descriptions say."""

import math
import re
from pathlib import Path

import pytest
import torch

from toy.figures.openings import GROUP, MOVED, REWARD, SETTINGS, WEIGHT, draw_losses, draw_weights, force, weights_of


def opening(name: str) -> str:
    text = Path(f"notebooks/{name}.py").read_text(encoding="utf-8").partition("**You will learn**")[0]
    return re.sub(r"\s*\n# ?", " ", text)


def test_the_weights_are_those_of_the_formula_and_of_the_words():
    for alpha, moved in SETTINGS:
        terms = [math.exp(r / alpha + (moved if r == 1 else 0)) for r in REWARD[0].tolist()]
        assert weights_of(alpha, moved)[0].tolist() == pytest.approx([term / sum(terms) for term in terms])
    gentle, steep, after = (weights_of(*setting)[0] for setting in SETTINGS)
    assert MOVED < 0 and REWARD[0].argmax() == 7
    text = opening("03_weights")
    assert f"from {gentle.min():.2f} to {gentle.max():.1f}" in text
    assert f"best rollout has {steep[7]:.2f} of the weight" in text
    assert f"it has {after[7]:.2f}, and the second best has {after[6]:.1f}" in text


def test_the_pull_of_wddo_is_zero_at_n_w_and_that_of_wdce_nowhere():
    delta = torch.tensor([-1.0, math.log(GROUP * WEIGHT), 2.0], dtype=torch.float64)
    by_hand = [WEIGHT / (1 + math.exp(d)) - 1 / GROUP / (1 + math.exp(-d)) for d in delta.tolist()]
    assert force("WDDO", delta).tolist() == pytest.approx(by_hand, abs=1e-15)
    assert by_hand[1] == pytest.approx(0, abs=1e-15) and by_hand[0] > 0 > by_hand[2]
    assert force("WDCE", delta).tolist() == pytest.approx([WEIGHT] * 3)
    text = opening("05_two_losses")
    assert f"log (N w) = {math.log(GROUP * WEIGHT):.2f}" in text and f"of weight {WEIGHT} " in text and f"with {WEIGHT} everywhere" in text


@pytest.mark.parametrize("draw", [draw_weights, draw_losses])
def test_the_pictures_are_drawn(tmp_path, draw):
    draw(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
