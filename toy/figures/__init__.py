"""The figures of the demonstration and of the Gaussian mixtures."""
