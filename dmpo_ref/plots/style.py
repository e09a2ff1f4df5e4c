"""How every figure looks: colours, grid, sizes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.animation import PillowWriter

COLORS = sns.color_palette("colorblind")


class Once(PillowWriter):
    """A GIF that plays once and then stops, so that nothing keeps moving next to a text."""

    def finish(self) -> None:
        """Write the frames without the setting that makes a browser start again."""
        first, *rest = self._frames  # type: ignore[attr-defined]
        first.save(self.outfile, save_all=True, append_images=rest, duration=int(1000 / self.fps))


def use_style() -> None:
    """Set the style of every figure."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110, "axes.titleweight": "bold"})
