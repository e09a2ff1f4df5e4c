"""Worlds small enough to know the exact answer: 4x4 Sudoku with an oracle, and Gaussian mixtures."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
RESULTS = Path(__file__).parent / "results"
