"""Every option of a run: one dataclass per concern, each field with its default, bound and description.

A run is described by one YAML file; the toy and LLaDA-8B differ in nothing else. Symbols are the paper's (arXiv 2510.08233).
`presets/loading.py` reads such files, `presets/checks.py` refuses incompatible options, `dmpo train --help` prints this page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any, Literal, Optional, cast, get_type_hints


@dataclass(frozen=True)
class Bound:
    """The values that an option may have: a test, and the rule in words. For an option that may be null, None is not tested."""

    holds: Callable[[Any], bool]
    words: str


LEAST, MOST = 1.2e-38, 3.4e38  # range of float32, to which numbers are converted: above it they are infinite, below it 0 or imprecise
AT_LEAST_1 = Bound(lambda value: 1 <= value <= 10**9, "must be at least 1, and at most 10⁹")
COUNT = Bound(lambda value: 1 <= value <= 10**6, "must be at least 1, and at most 10⁶: all of them are in memory at once")
MASKS = Bound(lambda value: 1 <= value <= 4096, "must be at least 1, and at most 4096: all of them are in memory at once")
NOT_NEGATIVE = Bound(lambda value: 0 <= value <= 10**9, "must not be negative, and at most 10⁹")
ABOVE_0 = Bound(lambda value: value > 0, "must be above 0")
ZERO_OR_ABOVE = Bound(lambda value: value == 0 or LEAST <= value <= MOST, "must be finite and not negative, in float32")
FINITE = Bound(lambda value: abs(value) <= MOST, "must be a finite number, in float32")
FINITE_ABOVE_0 = Bound(lambda value: LEAST <= value <= MOST, "must be finite and above 0, in float32")
PROBABILITY = Bound(lambda value: 0 < value <= 1, "a probability, above 0 and at most 1")
ALPHA = Bound(lambda value: LEAST <= value <= MOST, "the temperature α must be finite and above 0, in float32; in reward per nat")
STRENGTH = Bound(lambda value: abs(value) <= 1e6, "must be a number of at most 10⁶; 1 subtracts the whole baseline, 0 none")
THREADS = Bound(lambda value: 1 <= value <= 1024, "must be at least 1, and at most 1024")
SEED = Bound(lambda value: abs(value) < 2**63, "must be a number of 64 bits")
BELOW_1 = Bound(lambda value: 0 <= value < 1, "must lie in [0, 1)")


@dataclass(frozen=True)
class Option:
    """Documentation of an option: type in words, default, description with unit, the paper's symbol, bound."""

    kind: str
    default: Any
    help: str
    symbol: str
    bound: Bound | None


def option(default: Any, help: str, *, symbol: str = "", bound: Bound | None = None) -> Any:
    """A dataclass field with its documentation, see `Option`. A default that is a list or a dataclass is created anew for each config."""
    metadata = {"help": help, "symbol": symbol, "bound": bound}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(slots=True)
class ModelConfig:
    path: str = option("???", "folder or hub name of the policy to start from, in Hugging Face layout")
    dtype: Literal["float32", "bfloat16"] = option("float32", "number type of the weights; adapters stay in float32")
    float32_logits: bool = option(False, "do not round logits of bfloat16 weights: lowers the noise of an ELBO by about half a nat")
    lora_rank: int = option(
        0,
        "rank of the LoRA adapters; 0: all weights are trained. With adapters p_ref is the policy without them",
        bound=Bound(lambda rank: 0 <= rank <= 2**14, "must not be negative, and at most 16384, more than LLaDA-8B is wide"),
    )
    lora_alpha: float = option(64.0, "LoRA scale: adapters count lora_alpha / lora_rank", bound=FINITE_ABOVE_0)
    lora_dropout: float = option(0.0, "dropout on the adapters' input; only for losses linear in the log-probabilities", bound=BELOW_1)
    lora_targets: list[str] = option(
        ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"], "linear layers of every block that get an adapter"
    )
    lora_lean: bool = option(
        False, "use bfloat16 adapters, if the weights are, in passes without a gradient: a fifth of their bytes; p_θ/p_old starts near 1"
    )
    quantize: Literal["none", "nf4"] = option("none", "keep the frozen weights in 4 bits (needs bitsandbytes; with LoRA only)")
    gradient_checkpointing: bool = option(False, "recompute each block in the backward pass instead of keeping its activations")
    compile: Literal["none", "default", "reduce-overhead"] = option(
        "none",
        "torch.compile mode of the policy's blocks, for long runs on CUDA; the first round is slow; `reduce-overhead` adds CUDA graphs",
    )
    vocabulary: Literal["allowed", "full"] = option(
        "allowed", "`allowed` never generates the mask token or padded rows; `full` is the published softmax over all rows"
    )


@dataclass(slots=True)
class TaskConfig:
    name: Literal["sudoku", "countdown", "gsm8k", "math500", "reasoning_gym"] = option("sudoku", "which task to train on and be graded by")
    train: str = option(
        "???", "training items: a file with the task's columns, a hub data set as name:split, or generator:seed", symbol="q"
    )
    test: str = option("???", "test items, in the same form")
    generate: Literal["blanks", "all", "chat"] = option(
        "blanks",
        "sudoku only. `blanks`: write into the blanks, the clues standing between them; `all`: all 16 cells after the puzzle; "
        "`chat`: the puzzle as a chat message, a free answer of sampler.response_length tokens",
    )
    reward: Literal["solved", "recipe", "published"] = option(
        "solved",
        "`solved`: 1 for a right answer, else 0; `recipe`: the components of the published recipe, corrected where they are wrong; "
        "`published`: those components as they were",
        symbol="r",
    )
    few_shot: int = option(0, "worked examples before the question, as earlier turns of the conversation", bound=NOT_NEGATIVE)
    prefill: bool = option(False, "start the answer with <reasoning>, as the published evaluation does")
    prompt_file: Optional[str] = option(None, "text of the question instead of the task's own, with the same {fields}")


@dataclass(slots=True)
class SamplerConfig:
    name: Literal["random_order", "confidence", "random", "threshold", "factor", "wino"] = option(
        "random_order",
        "`random_order`: one token per step in a random order, with exact path log-probability; `confidence`: low-confidence "
        "remasking with a step budget; `random`: the same budget, random positions; `threshold`, `factor`: as many tokens at "
        "once as the model is confident of; `wino`: the same, and tokens that look wrong later are masked again",
    )
    temperature: float = option(1.0, "softmax temperature; 0 takes the most probable token", bound=ZERO_OR_ABOVE)
    response_length: Optional[int] = option(None, "positions of the response; null: those of the task's template", symbol="L", bound=COUNT)
    block_length: Optional[int] = option(None, "positions per block, left to right; null: the whole response is one block", bound=COUNT)
    steps: Optional[int] = option(None, "forward passes for the whole response; null: one token per step", bound=COUNT)
    threshold: Optional[float] = option(
        None,
        "`threshold` and `wino` place every position of this confidence; null: 0.9 and 0.6, as published",
        symbol="τ",
        bound=PROBABILITY,
    )
    back_threshold: float = option(
        0.9, "`wino` masks again what is less probable than this once its neighbours stand", symbol="τ_back", bound=PROBABILITY
    )
    factor: float = option(
        1.0, "`factor` places the longest run, by falling confidence, with c_k ≥ 1 − f/(k + 1)", symbol="f", bound=FINITE_ABOVE_0
    )
    cache: Literal["none", "prefix", "dual"] = option(
        "none",
        "within a block keep keys and values of what comes before it (`prefix`) or of all outside it (`dual`); "
        "for confidence, threshold and factor",
    )
    guidance: float = option(
        0.0,
        "classifier-free guidance: logits u + (s + 1)(c − u), u with the prompt masked; 0: none; above, twice the cost",
        symbol="s",
        bound=ZERO_OR_ABOVE,
    )
    stop_early: bool = option(False, "fill a finished answer with its end token and feed it no more; for evaluation")
    micro_batch: Optional[int] = option(None, "sequences in one forward pass; null: all", bound=AT_LEAST_1)


@dataclass(slots=True)
class WeightConfig:
    target: Literal["tilted", "reward_softmax", "reward"] = option(
        "tilted", "`tilted`: p* ∝ p_ref e^{r/α}; `reward_softmax`: ℓ = r (published α = 0); `reward`: w = r (published α = −1)"
    )
    alpha: float = option(0.1, "temperature of the target, reward per nat, above 0", symbol="α", bound=ALPHA)
    flatten_above: Optional[float] = option(
        None, "answers of this reward or more share their mass in p* evenly, not by p_ref; null: as published", bound=FINITE
    )
    log_ratio: Literal["path", "elbo", "none"] = option(
        "path",
        "estimate of log p_ref − log p_old: along the rollout's order (random_order only), both ELBOs on the same masks, "
        "or 0 (the reference is the rollout policy, so the target moves with it)",
    )
    elbo_masks: Literal["exact", "stratified", "systematic", "antithetic", "gauss", "paper"] = option(
        "antithetic", "mask scheme of the ELBOs of `log_ratio: elbo`, as in loss.masks"
    )
    elbo_num_masks: int = option(4, "masks for each ELBO of `log_ratio: elbo`", symbol="R", bound=MASKS)
    baseline: Literal["none", "uniform", "negative", "model"] = option("none", "weight baseline", symbol="w_base")
    baseline_strength: float = option(1.0, "w_real = w − strength · w_base", bound=STRENGTH)
    target_ess: Optional[float] = option(
        None,
        "share of the N rollouts, 0 to 1: temper ℓ by the largest c ≤ 1 that reaches it; null: c = 1",
        symbol="c",
        bound=Bound(lambda share: 0 < share < 1, "a share of the rollouts, between 0 and 1"),
    )


@dataclass(slots=True)
class LossConfig:
    name: Literal[
        "wdce", "wddo", "diffu_grpo", "wd1", "reinforce", "log_variance", "coupled_grpo", "spg", "espo", "gdpo", "gdsd", "stable_drl",
        "trace_rl", "agrpo", "trajectory_balance"
    ] = option(
        "wdce",
        "`wdce`: weighted denoising cross-entropy; `wddo`: weighted direct discriminative optimisation. Others have no use for weight.* "
        "but α (`log_variance`, `trajectory_balance`). They score: `diffu_grpo`, `wd1` in one shot; `coupled_grpo` a mask and its "
        "complement; `spg`, `espo`, `gdsd`, `stable_drl` loss.masks; `gdpo` masks `gauss`; `agrpo` num_masks steps of the path; "
        "`reinforce`, `trace_rl`, `log_variance`, `trajectory_balance` the whole path"
    )  # fmt: skip
    masks: Literal["exact", "stratified", "systematic", "antithetic", "gauss", "paper", "path", "path_steps"] = option(
        "antithetic",
        "wdce, wddo, spg, espo, gdsd, stable_drl: masks of the NELBO (`paper` is biased, `gauss` if L > 2R); `path`: the rollout's own "
        "order, exact log-probability; `path_steps`: num_masks of its steps, drawn afresh, an unbiased estimate of the same",
    )
    num_masks: int = option(2, "masks, or steps, per rollout and step: of loss.masks (not `path`), gdpo, agrpo", symbol="R", bound=MASKS)
    normalise: Literal["length", "none"] = option("length", "wdce: divide the NELBO by L, as published, or not")
    kl: float = option(
        0.0,
        "weight of the KL to p_ref, for reinforce and all that clip except stable_drl; reward per nat for reinforce and espo; 0: none",
        symbol="β",
        bound=ZERO_OR_ABOVE,
    )
    clip: float = option(0.2, "p_θ/p_old is clipped to [1 − ε, 1 + ε]", symbol="ε", bound=ABOVE_0)
    micro_batch: Optional[int] = option(None, "masked sequences in one forward and backward pass; null: all", bound=AT_LEAST_1)


@dataclass(slots=True)
class OptimizerConfig:
    learning_rate: float = option(1e-4, "AdamW learning rate at its highest", bound=FINITE_ABOVE_0)
    beta1: float = option(0.9, "AdamW β₁, decay of the mean of the gradients", bound=BELOW_1)
    beta2: float = option(0.99, "AdamW β₂, decay of the mean of their squares", bound=BELOW_1)
    weight_decay: float = option(0.0, "AdamW decoupled weight decay", bound=ZERO_OR_ABOVE)
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm", bound=ABOVE_0)
    schedule: Literal["constant", "linear", "cosine"] = option("constant", "learning rate: constant, or to 0 by line or cosine")
    warmup_steps: int = option(0, "gradient steps of linear warm-up", bound=NOT_NEGATIVE)


@dataclass(slots=True)
class TrainConfig:
    rounds: int = option(50, "rounds of: draw rollouts, score, several gradient steps", bound=AT_LEAST_1)
    prompts_per_round: int = option(8, "prompts in a round", symbol="G", bound=COUNT)
    num_rollouts: int = option(
        16,
        "rollouts for each prompt",
        symbol="N",
        bound=Bound(lambda N: 2 <= N <= 10**6, "the weights compare the rollouts of one prompt; at least 2 are needed, and at most 10⁶"),
    )
    reference_share: float = option(
        0.0,
        "share of the rollouts that p_ref draws, so that answers which the policy no longer draws can come back; 0: none, as published",
        symbol="ε",
        bound=BELOW_1,
    )
    steps_per_round: int = option(4, "gradient steps on the buffer in a round", symbol="K", bound=COUNT)
    prompts_per_step: Optional[int] = option(None, "prompts of the buffer in one gradient step; null: as many as in a round", bound=COUNT)
    reuse_rounds: int = option(0, "rollouts of so many earlier rounds stay in the buffer, with the weights they had", bound=NOT_NEGATIVE)
    skip_equal_groups: int = option(
        0,
        "replace groups whose rewards are all equal by groups of other prompts: so many further tries in a round, then they stay; "
        "0: they stay. Biased if the log-ratios in such a group differ: then its weights do too",
        bound=NOT_NEGATIVE,
    )
    resync_every: int = option(0, "set p_ref ← p_θ every so many rounds; 0: never, p* is fixed", bound=NOT_NEGATIVE)
    checkpoint_every: int = option(10, "rounds between checkpoints; the last round always writes one", bound=AT_LEAST_1)
    keep_checkpoints: int = option(1, "so many of the newest checkpoints stay", bound=AT_LEAST_1)
    log_prompts: int = option(
        1, "prompts of a round whose answers, with reward and weight, are written to rollouts.jsonl", bound=NOT_NEGATIVE
    )
    score_micro_batch: Optional[int] = option(None, "sequences in one pass when likelihoods are scored; null: all", bound=AT_LEAST_1)

    @property
    def num_reference_rollouts(self) -> int:
        """k = round(εN), the rollouts of each prompt that p_ref draws."""
        return round(self.reference_share * self.num_rollouts)


@dataclass(slots=True)
class EvaluationConfig:
    every: int = option(0, "rounds between evaluations during training; 0: only after the last", bound=NOT_NEGATIVE)
    num_items: Optional[int] = option(None, "number of test items, the first ones; null: all", bound=AT_LEAST_1)
    num_samples: int = option(1, "answers for each item", bound=COUNT)
    sampler: SamplerConfig = option(SamplerConfig, "sampler of the evaluation")


@dataclass(slots=True)
class Config:
    output: str = option("???", "folder of the run: metrics, checkpoints, config")
    seed: int = option(0, "key of every random stream", bound=SEED)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "`auto` takes CUDA if it is there; CUDA_VISIBLE_DEVICES chooses which")
    threads: Optional[int] = option(None, "CPU threads; null: torch's choice. One is often faster for tiny models", bound=THREADS)
    log_with: Literal["none", "tensorboard", "wandb"] = option("none", "tracker beside metrics.jsonl")
    model: ModelConfig = option(ModelConfig, "the policy")
    task: TaskConfig = option(TaskConfig, "prompts and rewards")
    sampler: SamplerConfig = option(SamplerConfig, "sampler of the rollouts")
    weight: WeightConfig = option(WeightConfig, "from rewards to weights")
    loss: LossConfig = option(LossConfig, "objective")
    optimizer: OptimizerConfig = option(OptimizerConfig, "optimiser")
    train: TrainConfig = option(TrainConfig, "the loop")
    evaluation: EvaluationConfig = option(EvaluationConfig, "evaluation")


@cache
def describe_options(cls: type = Config, prefix: str = "") -> dict[str, Option]:
    """Every option by its dotted key, in the order of the dataclasses."""
    found: dict[str, Option] = {}
    hints: dict[str, Any] = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        kind, key = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(kind):
            found |= describe_options(cast(type, kind), f"{key}.")
        else:
            words = kind.__name__ if isinstance(kind, type) else str(kind)
            words = words.replace("typing.", "").replace("Literal", "one of ").replace("Optional", "optional ")
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            found[key] = Option(words, default, **item.metadata)
    return found


def name_options(cls: type = Config) -> set[str]:
    """Dotted keys of the options that hold a name or a path."""
    return {key for key, option in describe_options(cls).items() if option.kind in ("str", "optional [str]")}


def get_option(config: Any, key: str) -> Any:
    """The value of an option by its dotted key."""
    return reduce(getattr, key.split("."), config)


def flat(config: Config) -> dict[str, Any]:
    """Every option of a config by its dotted key."""
    return {key: get_option(config, key) for key in describe_options()}


def shorten(value: object, most: int = 200) -> str:
    """A value as shown in a message: one line, the middle of a long one left out."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
