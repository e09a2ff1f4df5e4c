"""Reference implementation of Distribution Matching Policy Optimization (DMPO, arXiv 2510.08233).

    from dmpo_ref import load_config, train

The names below are those that notebooks and how-to pages use most. Each is imported when it is first used, so that
`import dmpo_ref.weights` takes no longer than importing torch.

Stable, changed only with a new minor version: `Config`, `load_config`, `train`; `load_policy`; `Prompts`,
`Rollout`, `sample`; `draw_masks`, `token_log_prob`, `sequence_log_prob`, `elbo`, `path_log_prob`; `log_weights`, `target_weights`,
`baseline_weights`, `model_baseline`, `effective_sample_size`; `wdce`, `wddo`.

The others may move or change in any version: `collect`, `weigh`, `gradient_step`; `SamplerConfig`, `Masks`, `stream`, `build_vocabulary`,
`build_task`, `encode`, `answer_texts`, `evaluate`. So may every name that is not listed here. CHANGELOG.md names all changes.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.12.2"

_NAMES = {  # module → its names
    "config": ("Config", "SamplerConfig"),
    "rollout": ("Prompts", "Rollout"),
    "masking": ("Masks", "draw_masks", "stream"),
    "models.loading": ("load_policy",),
    "likelihood": ("build_vocabulary", "elbo", "path_log_prob", "sequence_log_prob", "token_log_prob"),
    "weights": ("baseline_weights", "effective_sample_size", "log_weights", "model_baseline", "target_weights"),
    "samplers.sampling": ("sample",),
    "losses": ("wdce", "wddo"),
    "presets.loading": ("load_config",),
    "tasks": ("build_task",),
    "tasks.encoding": ("answer_texts", "encode"),
    "evaluation.answering": ("evaluate",),
    "experience": ("collect", "weigh"),
    "gradient": ("gradient_step",),
    "train": ("train",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

if TYPE_CHECKING:  # the same for type checkers, which do not run `__getattr__`
    from dmpo_ref.config import Config as Config
    from dmpo_ref.config import SamplerConfig as SamplerConfig
    from dmpo_ref.evaluation.answering import evaluate as evaluate
    from dmpo_ref.experience import collect as collect
    from dmpo_ref.experience import weigh as weigh
    from dmpo_ref.gradient import gradient_step as gradient_step
    from dmpo_ref.likelihood import build_vocabulary as build_vocabulary
    from dmpo_ref.likelihood import elbo as elbo
    from dmpo_ref.likelihood import path_log_prob as path_log_prob
    from dmpo_ref.likelihood import sequence_log_prob as sequence_log_prob
    from dmpo_ref.likelihood import token_log_prob as token_log_prob
    from dmpo_ref.losses import wdce as wdce
    from dmpo_ref.losses import wddo as wddo
    from dmpo_ref.masking import Masks as Masks
    from dmpo_ref.masking import draw_masks as draw_masks
    from dmpo_ref.masking import stream as stream
    from dmpo_ref.models.loading import load_policy as load_policy
    from dmpo_ref.presets.loading import load_config as load_config
    from dmpo_ref.rollout import Prompts as Prompts
    from dmpo_ref.rollout import Rollout as Rollout
    from dmpo_ref.samplers.sampling import sample as sample
    from dmpo_ref.tasks import build_task as build_task
    from dmpo_ref.tasks.encoding import answer_texts as answer_texts
    from dmpo_ref.tasks.encoding import encode as encode
    from dmpo_ref.train import train as train
    from dmpo_ref.weights import baseline_weights as baseline_weights
    from dmpo_ref.weights import effective_sample_size as effective_sample_size
    from dmpo_ref.weights import log_weights as log_weights
    from dmpo_ref.weights import model_baseline as model_baseline
    from dmpo_ref.weights import target_weights as target_weights

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a name of the table when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `dmpo_ref.train` the function when the module of the same name is imported, which Python would put in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
