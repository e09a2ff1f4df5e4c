"""Worlds small enough to know the exact answer: 4x4 Sudoku with an oracle, and Gaussian mixtures."""
