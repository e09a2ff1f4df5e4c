"""Reference implementation of Distribution Matching Policy Optimization (DMPO, arXiv 2510.08233)."""

from dmpo_ref.config import Config, load_config
from dmpo_ref.model import LLaDAConfig, LLaDAModelLM
from dmpo_ref.train import train

__all__ = ["Config", "LLaDAConfig", "LLaDAModelLM", "load_config", "train"]
