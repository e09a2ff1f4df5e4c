"""Plots of rollouts, and the style of every figure."""
