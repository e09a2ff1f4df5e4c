"""Synthetic Sudoku and Countdown, and Gaussian mixtures."""
