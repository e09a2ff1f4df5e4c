"""How every figure looks: colours, grid, sizes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.animation import PillowWriter

COLORS = sns.color_palette("colorblind")


class Once(PillowWriter):
    """A GIF that plays once and then stands still, so that nothing moves beside a text for ever."""

    def finish(self) -> None:
        """Write the frames, without the word that has a browser begin again."""
        first, *rest = self._frames  # type: ignore[attr-defined]
        first.save(self.outfile, save_all=True, append_images=rest, duration=int(1000 / self.fps))


def use_style() -> None:
    """The style of every figure."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110, "axes.titleweight": "bold"})
