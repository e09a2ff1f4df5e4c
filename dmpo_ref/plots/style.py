"""How every figure looks: colours, grid, sizes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn as sns

COLORS = sns.color_palette("colorblind")


def use_style() -> None:
    """The style of every figure."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110, "axes.titleweight": "bold"})
