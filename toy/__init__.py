"""Worlds that are small enough for exact answers: 4x4 Sudoku with an oracle, and Gaussian mixtures."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
RESULTS = Path(__file__).parent / "results"
