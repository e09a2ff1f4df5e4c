"""Pictures of traces: what is drawn is what stands at that step."""

import io

import numpy as np
import pytest
import torch
from helpers import make_prompts, make_rollout
from matplotlib import pyplot as plt
from PIL import Image

from dmpo_ref.cli import main
from dmpo_ref.plots.traces import HIDDEN, LINE, animate_trace, draw_trace, place, save_trace, trace

PIECES, STEP = list("1234341221434321"), [-1, 3, 0, -1, 2, 1, -1, -1, 4, -1, -1, -1, -1, -1, -1, -1]


class Digits:
    """A tokenizer of one method: id 3 + d is the digit d."""

    def decode(self, tokens):
        return "".join(str(token - 3) for token in tokens)


def shown(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_trace_is_the_answer_without_prompt_and_padding():
    rollout = make_rollout(make_prompts("..12|3_4_"), 2, seed=1)
    pieces, step = trace(Digits(), rollout, sample=1)
    assert (pieces[0], pieces[2]) == ("3", "4")
    assert len(pieces) == 4
    assert step == rollout.step[0, 1, -4:].tolist()
    assert step[0] == step[2] == -1


def test_a_still_shows_every_token_and_one_colour_for_each_step():
    figure = draw_trace(PIECES, STEP, board=True)
    assert shown(figure) == PIECES
    colors = [tuple(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert len({colors[i] for i in range(16) if STEP[i] >= 0}) == 5
    assert len({colors[i] for i in range(16) if STEP[i] < 0}) == 1
    plt.close(figure)


def test_an_animation_has_a_frame_for_each_step_and_hides_what_comes_later(monkeypatch):
    seen = []
    from dmpo_ref.plots import traces as draw

    paint = draw.paint

    def record(axes, *args, **options):
        paint(axes, *args, **options)
        seen.append([text.get_text() for text in axes.texts])

    monkeypatch.setattr(draw, "paint", record)
    with Image.open(io.BytesIO(animate_trace(PIECES, STEP, board=True))) as image:
        assert image.format == "GIF" and image.n_frames >= 6
    frames = [frame for i, frame in enumerate(seen) if frame != seen[i - 1] or i == 0]
    for until, frame in zip(range(-1, 5), frames, strict=True):
        assert frame == [piece if step <= until else HIDDEN for piece, step in zip(PIECES, STEP, strict=True)]


def test_text_is_wrapped_at_the_width_and_after_line_breaks_without_overlap():
    rng = np.random.default_rng(0)
    pieces = ["x" * n for n in rng.integers(1, 90, 60)]
    pieces[10] = "end\n"
    spots = place(pieces)
    cells = set()
    for (line, column, width), piece in zip(spots, pieces, strict=True):
        assert column + width <= LINE and width == min(len(piece), LINE)
        here = {(line, column + i) for i in range(width)}
        assert not here & cells
        cells |= here
    assert spots[11][0] == spots[10][0] + 1 and spots[11][1] == 0
    assert spots == sorted(spots)


def test_dollar_signs_are_text_and_empty_pieces_have_room(tmp_path):
    save_trace(tmp_path / "deep" / "x.png", ["$a_", "", "\n", "\\boxed{", "}$"], [0, 1, 2, 3, 4])
    assert (tmp_path / "deep" / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_the_command_draws_the_board(ending, tmp_path, capsys):
    path = tmp_path / f"board.{ending}"
    assert main(["sample", "toy_sudoku", "threads=1", "--draw", str(path)]) == 0
    assert path.stat().st_size > 3000
    torch.set_num_threads(1)


def test_an_animation_plays_once():
    """Without the extension of GIF that has it begin again; Pillow's own name for the number of repeats is `loop`."""
    gif = animate_trace(["1", "2"], [0, 1])
    assert b"NETSCAPE2.0" not in gif and "loop" not in Image.open(io.BytesIO(gif)).info


def test_another_ending_is_refused_before_anything_is_done(tmp_path, capsys):
    assert main(["sample", "toy_sudoku", "--draw", str(tmp_path / "x.doc")]) == 2
    captured = capsys.readouterr()
    assert "a picture must end in .png, .svg, .pdf, .gif or .html" in captured.err and not captured.out
