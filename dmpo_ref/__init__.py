"""Reference implementation of Distribution Matching Policy Optimization (DMPO, arXiv 2510.08233)."""

from dmpo_ref.config import Config
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.presets.loading import load_config
from dmpo_ref.train import train

__all__ = ["Config", "LLaDAConfig", "LLaDAModelLM", "load_config", "train"]
