"""?"""

from __future__ import annotations

import math
from collections.abc import Callable

from dmpo_ref.config import Config, get_option
from dmpo_ref.samplers.checks import check_options as check_sampler

AT_LEAST_ONE = [
    *("train.rounds", "train.prompts_per_round", "train.steps_per_round", "train.checkpoint_every", "train.keep_checkpoints"),
    "train.prompts_per_step",
    *("train.score_micro_batch", "loss.micro_batch", "sampler.micro_batch", "evaluation.sampler.micro_batch"),
    *("loss.num_masks", "weight.elbo_num_masks", "evaluation.num_samples", "evaluation.num_items", "threads"),
]
NOT_NEGATIVE = [
    *("train.reuse_rounds", "train.resync_every", "train.log_prompts", "evaluation.every"),
    *("optimizer.warmup_steps", "optimizer.weight_decay", "model.lora_rank"),
]


def check_config(config: Config) -> None:
    """Refuse impossible values and combinations, naming the key, the value and what would be right.

    Raises:
        ValueError: the first thing found wrong.
    """

    def require(ok: bool, key: str, right: str) -> None:
        if not ok:
            raise ValueError(f"{key}={get_option(config, key)}: {right}")

    for key in AT_LEAST_ONE:
        value = get_option(config, key)
        require(value is None or value >= 1, key, "must be at least 1")
    for key in NOT_NEGATIVE:
        require(get_option(config, key) >= 0, key, "must not be negative")
    check_sampler(config.sampler, "sampler")
    check_sampler(config.evaluation.sampler, "evaluation.sampler")
    model, weight, optimizer, train = config.model, config.weight, config.optimizer, config.train
    require(0 <= model.lora_dropout < 1, "model.lora_dropout", "must lie in [0, 1)")
    require(model.lora_rank == 0 or bool(model.lora_targets), "model.lora_targets", "name at least one layer")
    require(model.quantize == "none" or model.lora_rank > 0, "model.quantize", "4-bit weights cannot be trained; set model.lora_rank")
    is_temperature = weight.alpha > 0 and math.isfinite(weight.alpha)
    require(is_temperature, "weight.alpha", "the temperature α must be finite and above 0, in units of reward per nat")
    require(math.isfinite(weight.baseline_strength), "weight.baseline_strength", "must be a finite number")
    require(train.num_rollouts >= 2, "train.num_rollouts", "the weights compare the rollouts of one prompt; at least 2 are needed")
    require(weight.target_ess is None or 0 < weight.target_ess < 1, "weight.target_ess", "a share of the rollouts, between 0 and 1")
    is_rate = optimizer.learning_rate > 0 and math.isfinite(optimizer.learning_rate)
    require(is_rate, "optimizer.learning_rate", "must be finite and above 0")
    require(optimizer.max_grad_norm > 0, "optimizer.max_grad_norm", "must be above 0")
    require(0 <= optimizer.beta1 < 1, "optimizer.beta1", "must lie in [0, 1)")
    require(0 <= optimizer.beta2 < 1, "optimizer.beta2", "must lie in [0, 1)")
    most = train.prompts_per_round
    require(train.prompts_per_step is None or train.prompts_per_step <= most, "train.prompts_per_step", f"at most prompts_per_round={most}")
    check_combinations(config, require)


def check_combinations(config: Config, require: Callable[[bool, str, str], None]) -> None:
    """The part of `check_config` that is about options that do not go together."""
    sampler, weight, loss = config.sampler, config.weight, config.loss
    has_path = sampler.name == "random_order"
    check_rival(config, require)
    require(
        has_path or weight.log_ratio != "path",
        "weight.log_ratio",
        "only sampler.name=random_order has a path probability; use elbo or none",
    )
    require(
        (has_path and sampler.temperature > 0) or loss.masks != "path",
        "loss.masks",
        "only sampler.name=random_order above temperature 0 has a path probability",
    )
    if config.model.compile == "reduce-overhead":
        # CUDA graphs write every pass to the same memory, where kept keys and values would be overwritten.
        for section in ("sampler", "evaluation.sampler"):
            cached = get_option(config, f"{section}.cache") != "none"
            require(not cached, f"{section}.cache", "does not go with model.compile=reduce-overhead; use none, or compile=default")
    if weight.log_ratio == "path" or loss.masks == "path" or loss.name in ("reinforce", "log_variance"):
        require(sampler.guidance == 0, "sampler.guidance", "guided rollouts have no path probability under the policy; use 0")
        require(not sampler.stop_early, "sampler.stop_early", "what it fills in was not drawn and has no path probability; use false")
    if weight.log_ratio == "elbo" or weight.baseline == "model" or loss.name in ("wddo", "diffu_grpo"):
        require(sampler.guidance == 0, "sampler.guidance", "log p_old would be that of the unguided policy; use 0, or log_ratio=none")
    if sampler.temperature == 0:
        require(weight.log_ratio == "none", "weight.log_ratio", "sampler.temperature=0 draws without a probability; use none")
    if loss.name == "wddo":
        require(weight.baseline == "none", "weight.baseline", "wddo has its own negative term; use none")
        require(weight.target != "reward", "weight.target", "wddo needs weights that sum to 1; use tilted or reward_softmax")
    if weight.target == "reward":
        require(weight.baseline != "model", "weight.baseline", "target=reward has the baselines none, uniform and negative")
        require(weight.target_ess is None, "weight.target_ess", "target=reward has no softmax to temper; use null")
    if weight.target != "tilted":
        require(weight.log_ratio == "none", "weight.log_ratio", f"target={weight.target} does not use it; set none")
    if weight.log_ratio == "none" and loss.name != "log_variance" and loss.kl == 0:
        require(config.train.resync_every == 0, "train.resync_every", "log_ratio=none has no separate reference to re-sync; use 0")


def check_rival(config: Config, require: Callable[[bool, str, str], None]) -> None:
    """The part of `check_combinations` that is about objectives other than the two of DMPO."""
    sampler, weight, loss = config.sampler, config.weight, config.loss
    require(loss.kl == 0 or loss.name in ("diffu_grpo", "reinforce"), "loss.kl", "for diffu_grpo and reinforce; use 0")
    require(loss.kl >= 0 and math.isfinite(loss.kl), "loss.kl", "must not be negative")
    require(loss.clip > 0, "loss.clip", "must be above 0")
    if loss.name in ("reinforce", "log_variance"):
        has_path = sampler.name == "random_order" and sampler.temperature > 0
        require(has_path, "loss.name", "only sampler.name=random_order above temperature 0 has a path probability")
    if loss.name not in ("wdce", "wddo"):
        for key, unused in (("log_ratio", "none"), ("baseline", "none"), ("target", "tilted"), ("target_ess", None)):
            value = "null" if unused is None else unused
            require(getattr(weight, key) == unused, f"weight.{key}", f"loss.name={loss.name} has no importance weights; use {value}")
