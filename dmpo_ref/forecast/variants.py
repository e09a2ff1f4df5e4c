"""Plans of the same run with other settings, and of the published recipe, by the same arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmpo_ref.config import Config
from dmpo_ref.forecast.hardware import GPU, GPUS
from dmpo_ref.forecast.plan import Plan, make_plan
from dmpo_ref.forecast.sizes import KNOWN_8B
from dmpo_ref.samplers.checks import CONFIDENT

# As published, where a forecast counts it: fewer adapters, a base in 4 bits (unpacking it is not counted), nothing recomputed.
PUBLISHED = {
    "model.lora_targets": ["q_proj", "k_proj", "v_proj", "up_proj"],
    "model.quantize": "nf4",
    "model.gradient_checkpointing": False,
    "model.compile": "none",
}
PUBLISHED_GPUS = 8, "h200"


def plan_variants(config: Config, *, gpu: GPU, prompt_length: int | None, **shared: Any) -> dict[str, Plan]:
    """Plans of this run with other settings, by the overrides that set them; and of the published recipe on its own GPUs, where adapters
    are trained on LLaDA-8B. Arguments are those of `make_plan`."""
    plans = {}
    for changes in variants(config):
        name = " ".join(f"{key}={str(value).lower()}" for key, value in changes.items())
        plans[name] = make_plan(changed(config, changes), gpu=gpu, prompt_length=prompt_length, **shared)
    count, name = PUBLISHED_GPUS
    if config.model.path.startswith(KNOWN_8B) and config.model.lora_rank and config.train.prompts_per_round % count == 0:
        recipe = changed(config, PUBLISHED | {"train.prompts_per_step": None})
        plans[f"as published, {count} {GPUS[name].name}"] = make_plan(
            recipe, gpu=GPUS[name], prompt_length=prompt_length, num_processes=count
        )
    return plans


def variants(config: Config) -> list[dict[str, Any]]:
    """Settings that cost memory or save time, one after the other, then all that save time. Numbers stay the same up to rounding and what
    dropout draws, except with the cache: the model then reads keys and values that are up to a block old."""
    model, sampler, micro_batch = config.model, config.sampler, config.loss.micro_batch
    faster: list[dict[str, Any]] = []
    if model.gradient_checkpointing:
        faster.append({"model.gradient_checkpointing": False} | ({"loss.micro_batch": max(1, micro_batch // 2)} if micro_batch else {}))
    if model.compile == "none":
        faster.append({"model.compile": "default"})
    if model.lora_rank and model.dtype == "bfloat16" and not model.lora_lean:
        faster.append({"model.lora_lean": True})
    if sampler.name in CONFIDENT and sampler.cache != "dual" and model.compile != "reduce-overhead":
        faster.append({"sampler.cache": "dual"})
    smaller: list[dict[str, Any]] = [] if model.gradient_checkpointing else [{"model.gradient_checkpointing": True}]
    together = [{key: value for changes in faster for key, value in changes.items()}] if len(faster) > 1 else []
    return [*smaller, *faster, *together]


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """A config with other values of some options, by section.key."""
    for key, value in changes.items():
        section, name = key.split(".")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config
