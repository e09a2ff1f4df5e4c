"""Checks of a config: values within their bounds, and compatible options."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dmpo_ref.config import Config, LossConfig, describe_options, get_option
from dmpo_ref.objectives import OBJECTIVES, build_objective
from dmpo_ref.objectives.base import Objective
from dmpo_ref.samplers.checks import check_bounds, check_memory, check_options, has_path_log_prob, require

NO_PATH = "only sampler.name=random_order has a path probability, above temperature 0 and without guidance or stop_early"

# Options that one choice of another option reads and the others do not: option → (the other one, its choices that read it). Those
# of the loss are in `Objective.reads`.
OF_SAMPLERS = {"threshold": ("threshold", "wino"), "back_threshold": ("wino",), "factor": ("factor",)}
READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "weight.elbo_masks": ("weight.log_ratio", ("elbo",)),
    "weight.elbo_num_masks": ("weight.log_ratio", ("elbo",)),
    "weight.baseline_strength": ("weight.baseline", ("uniform", "negative", "model")),
    **{
        f"{section}.{name}": (f"{section}.name", readers)
        for section in ("sampler", "evaluation.sampler")
        for name, readers in OF_SAMPLERS.items()
    },
}


def check_config(config: Config) -> None:
    """Refuse impossible values and combinations, naming the key, the value and what would be right.

    Raises:
        ValueError: the first thing found wrong.
    """
    check_bounds(config)
    check_options(config.sampler, "sampler")
    check_options(config.evaluation.sampler, "evaluation.sampler")
    model, train, most = config.model, config.train, config.train.prompts_per_round
    targets = model.lora_targets
    require(all(isinstance(name, str) for name in targets), config, "model.lora_targets", "a list of names of layers is needed")
    require(model.lora_rank == 0 or bool(targets), config, "model.lora_targets", "name at least one layer")
    require(
        model.quantize == "none" or model.lora_rank > 0, config, "model.quantize", "4-bit weights cannot be trained; set model.lora_rank"
    )
    require((train.prompts_per_step or 1) <= most, config, "train.prompts_per_step", f"at most prompts_per_round={most}")
    if model.compile == "reduce-overhead":
        # CUDA graphs write every pass to the same memory, where kept keys and values would be overwritten.
        for section in ("sampler", "evaluation.sampler"):
            right = "does not go with model.compile=reduce-overhead; use none, or compile=default"
            require(get_option(config, f"{section}.cache") == "none", config, f"{section}.cache", right)
    decay = "learning_rate · weight_decay must be at most 1: a step multiplies the weights by 1 minus it"
    require(config.optimizer.learning_rate * config.optimizer.weight_decay <= 1, config, "optimizer.weight_decay", decay)
    check_sizes(config)
    check_weight_section(config)
    check_objective(config)


def idle_options(config: Config) -> Iterator[tuple[str, str]]:
    """(option, one line about it) for every option that was changed and that nothing reads.

    It is no error: a preset may set what a choice on the command line leaves without use.
    """
    of_loss = {f"loss.{name}": ("loss.name", readers_of(name, config.loss)) for name in ("masks", "num_masks", "normalise", "clip")}
    if config.loss.masks == "path" and config.loss.name in readers_of("num_masks", replace(config.loss, masks="exact")):
        of_loss["loss.num_masks"] = ("loss.masks", ("exact", "stratified", "systematic", "antithetic", "gauss", "paper", "path_steps"))
    for key, (chooser, readers) in (READ_BY | of_loss).items():
        value, chosen = get_option(config, key), get_option(config, chooser)
        if value != describe_options()[key].default and chosen not in readers:
            yield key, f"{key}={value} does nothing with {chooser}={chosen}; it is for {', '.join(readers)}"


def is_read(config: Config, key: str) -> bool:
    """Whether an option of `READ_BY` is one that the choices of a config read."""
    chooser, readers = READ_BY[key]
    return get_option(config, chooser) in readers


def readers_of(option: str, loss: LossConfig) -> tuple[str, ...]:
    """The names of the objectives that read an option of the loss."""
    return tuple(name for name, build in OBJECTIVES.items() if option in build(loss, 1.0).reads)


def check_sizes(config: Config) -> None:
    """Refuse more rollouts or answers than fit in memory, judging by the config alone; `sample` checks with the lengths of the items."""
    for sampler, keys in (
        (config.sampler, ("train.num_rollouts", "train.prompts_per_round")),
        (config.evaluation.sampler, ("evaluation.num_samples",)),
    ):
        length, counts = sampler.response_length or 1, [get_option(config, key) for key in keys]
        options = " or ".join(f"{key}={count}" for key, count in zip(keys, counts, strict=True))
        if math.prod(counts) > 1:  # else the length is too large, and refused where that of the model is known
            check_memory(sampler, math.prod(counts), length, length, options)


def check_weight_section(config: Config) -> None:
    """Refuse weights that the sampler, or another option of the weights, makes impossible."""
    sampler, weight = config.sampler, config.weight
    if sampler.temperature == 0:
        require(weight.log_ratio == "none", config, "weight.log_ratio", "sampler.temperature=0 draws without a probability; use none")
    require(weight.log_ratio != "path" or has_path_log_prob(sampler), config, "weight.log_ratio", f"{NO_PATH}; use elbo or none")
    if weight.flatten_above is not None:
        for name, right in (("log_ratio", "path"), ("target", "tilted")):
            need = f"flatten_above needs log p_old of each rollout's order, and the target p*; use {right}"
            require(getattr(weight, name) == right, config, f"weight.{name}", need)
        require(weight.baseline != "negative", config, "weight.baseline", "flatten_above does not invert; use none, uniform or model")
    if weight.target != "tilted":
        require(weight.log_ratio == "none", config, "weight.log_ratio", f"target={weight.target} does not use it; set none")
    if weight.target == "reward":
        require(weight.baseline != "model", config, "weight.baseline", "target=reward has the baselines none, uniform and negative")
        require(weight.target_ess is None, config, "weight.target_ess", "target=reward has no softmax to temper; use null")


def check_reference_share(config: Config) -> None:
    """Refuse `train.reference_share` if p_ref would draw all rollouts or none, or if their weights are not known."""
    train, weight, key = config.train, config.weight, "train.reference_share"
    drawn = (
        f"that is {train.num_reference_rollouts} of train.num_rollouts={train.num_rollouts}, and p_ref and the policy must each draw one"
    )
    require(0 < train.num_reference_rollouts < train.num_rollouts, config, key, drawn)
    require(weight.log_ratio != "none", config, "weight.log_ratio", f"with {key} the weights need p_ref/p_old; use path or elbo")
    require(
        weight.baseline in ("none", "uniform"), config, "weight.baseline", f"not known for rollouts of p_ref ({key}); use none or uniform"
    )
    require(weight.target_ess is None, config, "weight.target_ess", f"with {key} the weights are not tempered; use null")
    if weight.log_ratio == "path":
        at_1 = f"p_ref is taken at temperature 1, so with {key} and log_ratio=path rollouts are drawn at 1"
        require(config.sampler.temperature == 1, config, "sampler.temperature", at_1)


def check_objective(config: Config) -> None:
    """Refuse an objective that is incompatible with the sampler or the weights."""
    sampler, weight, loss, train = config.sampler, config.weight, config.loss, config.train
    objective = build_objective(loss, weight)
    key = "loss.name" if build_objective(replace(loss, masks="exact"), weight).needs_path else "loss.masks"
    require(not objective.needs_path or has_path_log_prob(sampler), config, key, NO_PATH)
    for_wdce = f"rollouts of p_ref (train.reference_share={train.reference_share}) are weighed for wdce only"
    require(not train.reference_share or loss.name == "wdce", config, "loss.name", for_wdce)
    check_flags(config, objective, f"loss.name={loss.name} has no importance weights;")
    with_kl = readers_of("kl", loss)
    require(loss.kl == 0 or loss.name in with_kl, config, "loss.kl", f"for {', '.join(with_kl)}; use 0")
    if loss.name == "wddo":
        require(weight.baseline == "none", config, "weight.baseline", "wddo has its own negative term; use none")
        require(weight.target != "reward", config, "weight.target", "wddo needs weights that sum to 1; use tilted or reward_softmax")
    has_reference = weight.log_ratio != "none" or objective.uses_log_ref
    require(has_reference or train.resync_every == 0, config, "train.resync_every", "log_ratio=none has no reference to re-sync; use 0")


def check_own_objective(config: Config, objective: Objective) -> None:
    """The same of an objective given to `train`, by what it says of itself."""
    has_path = not objective.needs_path or has_path_log_prob(config.sampler)
    require(has_path, config, "sampler.name", f"the objective follows the path of a rollout; {NO_PATH}")
    weighs = "the objective does not say that it reads the weights; set its uses_weight=True if it does, and if not"
    require(not config.train.reference_share or objective.uses_weight, config, "train.reference_share", f"{weighs}, use 0")
    check_flags(config, objective, f"{weighs},")


def check_flags(config: Config, objective: Objective, has_no_weights: str) -> None:
    """Refuse options of sampler and weights that an objective cannot use."""
    sampler, weight = config.sampler, config.weight
    if config.train.reference_share:
        check_reference_share(config)
    needs_policy = weight.log_ratio == "elbo" or objective.uses_log_old
    unguided = "log p_old would be that of the unguided policy; use 0, or log_ratio=none"
    require(not needs_policy or sampler.guidance == 0, config, "sampler.guidance", unguided)
    if not objective.uses_weight:
        for name, unused in (
            ("log_ratio", "none"),
            ("baseline", "none"),
            ("target", "tilted"),
            ("target_ess", None),
            ("flatten_above", None),
        ):
            right = f"{has_no_weights} use {'null' if unused is None else unused}"
            require(getattr(weight, name) == unused, config, f"weight.{name}", right)
