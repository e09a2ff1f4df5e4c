"""What notebooks share: a first step (installation, one CPU thread, style of the figures), and tables that show as tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from tabulate import tabulate

from dmpo_ref.plots.style import use_style

NEEDED = {"torch": "2.6", "transformers": "5.0"}


def start() -> None:
    """Check versions, set one CPU thread (faster for tiny models, and the same everywhere), choose the style of figures.

    Raises:
        SystemExit: something is missing or too old: what, and how to get it, in one line.
    """
    for package, oldest in NEEDED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise SystemExit(
                f"{package} is not installed: run pip install -e '.[lab]' in the repository, then restart the kernel"
            ) from None
        if as_numbers(found) < as_numbers(oldest):
            raise SystemExit(
                f"{package} {found} is too old, {oldest} or newer is needed: run pip install -e '.[lab]' in the repository, "
                "then restart the kernel"
            )
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="IProgress not found")
    use_style()


def as_numbers(text: str) -> tuple[int, ...]:
    """Version 2.13.0+cpu as (2, 13, 0)."""
    return tuple(int(part) for part in text.split("+")[0].split(".")[:3] if part.isdigit())


class Table:
    """Rows under headers: a table in a notebook and in the book, aligned columns elsewhere.

    Args:
        rows: cells are shown as `str` makes them, so numbers come as text with the digits that count, f"{x:.3f}".
        headers: one for each column.

    Raises:
        ValueError: a row that does not have a cell for each header.
    """

    def __init__(self, rows: Iterable[Sequence[object]], headers: Sequence[str]) -> None:
        self.rows, self.headers = [[str(cell) for cell in row] for row in rows], list(headers)
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"a row of {len(row)} cells, {row[:3]} …, under {len(self.headers)} headers; give one for each")

    def _repr_html_(self) -> str:
        return self.formatted("html")

    def __repr__(self) -> str:
        return self.formatted("plain")

    def formatted(self, style: str) -> str:
        """By `tabulate`: the first column on the left, the others on the right."""
        sides = ["left", *["right"] * (len(self.headers) - 1)]
        return str(tabulate(self.rows, self.headers, style, disable_numparse=True, colalign=sides if self.rows else None))
