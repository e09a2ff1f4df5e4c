"""Plots of a trace, that is, of the step at which each token was unmasked: as text or as a Sudoku board, still or animated.

The style of every figure in the project is here too: one palette, suitable for colour-blind readers, and an opaque background,
so that pictures also read on a dark page.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dmpo_ref.plots.style import Once, use_style
from dmpo_ref.rollout import Rollout
from dmpo_ref.tasks.encoding import trajectory

STEPS = sns.color_palette("viridis", as_cmap=True)  # dark first, light last
GIVEN, MASKED = "#e8e8e8", "white"
LINE = 64  # characters of a line of text
HIDDEN = "·"
SIGNS = {"\n": "⏎", "\t": "⇥"}


def trace(tokenizer, rollout: Rollout, prompt: int = 0, sample: int = 0) -> tuple[list[str], list[int]]:
    """One response of a rollout: the text of each token, and the step at which it was (last) placed, −1 where it was given."""
    found = trajectory(tokenizer, rollout, prompt, sample)
    return found["pieces"], found["step"]


def draw_trace(pieces: list[str], step: list[int], *, board: bool = False) -> Figure:
    """Plot a still image: every token on the colour of its step.

    Args:
        pieces, step: see `trace`.
        board: the 16 pieces are the cells of a 4x4 Sudoku; else they are a text.
    """
    figure, axes = make_axes(pieces, board)
    paint(axes, pieces, step, until=max(step), board=board)
    scale = Normalize(0, max(*step, 1))
    figure.colorbar(ScalarMappable(scale, STEPS), ax=axes, label="step", shrink=0.8, pad=0.02)
    return figure


def animate_trace(pieces: list[str], step: list[int], *, board: bool = False, frames_per_second: int = 4) -> bytes:
    """The same as a GIF: a frame for each step, the last one held. `Image(data=…, format="gif")` shows it in a notebook."""
    figure, axes = make_axes(pieces, board)
    last = max(step)

    def show(frame: int) -> None:
        axes.clear()
        until = min(frame - 1, last)
        paint(axes, pieces, step, until=until, board=board)
        axes.set_title("before the first step" if until < 0 else f"step {until + 1} of {last + 1}", fontsize=9)

    held = round(2 * frames_per_second)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.gif"
        FuncAnimation(figure, show, frames=last + 2 + held).save(path, Once(fps=frames_per_second))
        plt.close(figure)
        return path.read_bytes()


def save_trace(path: Path, pieces: list[str], step: list[int], *, board: bool = False) -> None:
    """Write a still, or an animation if the name ends in .gif."""
    check_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        path.write_bytes(animate_trace(pieces, step, board=board))
        return
    figure = draw_trace(pieces, step, board=board)
    figure.savefig(path)
    plt.close(figure)


def check_ending(path: Path, *more: str) -> None:
    """Raise a ValueError unless the file name ends in .png, .svg, .pdf, .gif or one of `more`."""
    known = (".png", ".svg", ".pdf", ".gif", *more)
    if path.suffix not in known:
        raise ValueError(f"{path}: a picture must end in {', '.join(known[:-1])} or {known[-1]}")


def make_axes(pieces: list[str], board: bool) -> tuple[Figure, Axes]:
    """An empty figure large enough."""
    use_style()
    lines = 1 + max(line for line, _, _ in place(pieces))
    size = (3.2, 2.8) if board else (8.2, 0.6 + 0.3 * lines)
    return plt.subplots(figsize=size, layout="constrained")


def paint(axes: Axes, pieces: list[str], step: list[int], *, until: int, board: bool) -> None:
    """Plot the tokens placed up to the step `until`; later ones are hidden."""
    last = max(max(step), 1)
    spots = [(*divmod(i, 4), 1) for i in range(16)] if board else place(pieces)
    for (line, column, width), piece, when in zip(spots, pieces, step, strict=True):
        shown = when <= until
        color = GIVEN if when < 0 else STEPS(when / last) if shown else MASKED
        axes.add_patch(plt.Rectangle((column, line), width, 1, facecolor=color, edgecolor="0.75", linewidth=0.4))
        # A line break is visible as the end of the line; it needs a sign only if it is alone.
        text = "".join(c if c.isprintable() else SIGNS.get(c, "�") for c in piece.rstrip("\n") or piece) if shown else HIDDEN
        dark = when >= 0 and shown and when / last < 0.6
        axes.text(column + width / 2, line + 0.53, text, ha="center", va="center", family="monospace", fontsize=14 if board else 8,
                  color="white" if dark else "black", fontweight="bold" if when < 0 and board else "normal", parse_math=False)  # fmt: skip
    width, height = (4, 4) if board else (max(column + width for _, column, width in spots), 1 + max(line for line, _, _ in spots))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], **({"aspect": "equal"} if board else {}))
    axes.grid(False)
    axes.spines[:].set_visible(board)
    for k in range(5) if board else ():
        axes.axhline(k, color="0.2", linewidth=1.6 if k % 2 == 0 else 0.5)
        axes.axvline(k, color="0.2", linewidth=1.6 if k % 2 == 0 else 0.5)


def place(pieces: list[str]) -> list[tuple[int, int, int]]:
    """Line, column and width in characters of each piece, wrapped at LINE characters and after line breaks."""
    spots, line, column = [], 0, 0
    for piece in pieces:
        width = max(1, min(len(piece), LINE))
        if column + width > LINE:
            line, column = line + 1, 0
        spots.append((line, column, width))
        line, column = (line + 1, 0) if piece.endswith("\n") else (line, column + width)
    return spots
