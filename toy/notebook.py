"""The first step of every notebook: a check of the installation, one CPU thread, the style of the figures."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

import torch

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
