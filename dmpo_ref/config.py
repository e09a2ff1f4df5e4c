"""Configuration: one dataclass per concern, YAML files, `key=value` overrides. Every field says what it is.

A run is described by one YAML file; the toy and LLaDA-8B differ in nothing else. Symbols are the paper's
(arXiv 2510.08233). `dmpo train --help` prints this page.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal, Optional, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PRESETS = Path(__file__).parent / "presets"
AT_LEAST_ONE = [
    *("train.rounds", "train.prompts_per_round", "train.steps_per_round", "train.checkpoint_every", "train.keep_checkpoints"),
    "train.prompts_per_step",
    *("train.score_micro_batch", "loss.micro_batch", "sampler.micro_batch", "evaluation.sampler.micro_batch"),
    *("loss.num_replicates", "weight.elbo_replicates", "evaluation.num_samples", "evaluation.num_items", "threads"),
]
NOT_NEGATIVE = [
    *("train.reuse_rounds", "train.resync_every", "train.log_prompts", "evaluation.every"),
    *("optimizer.warmup_steps", "optimizer.weight_decay", "model.lora_rank"),
]


def option(default: Any, help: str, *, symbol: str = "") -> Any:
    """A dataclass field with its documentation: what it is with its unit, and the paper's symbol."""
    metadata = {"help": help, "symbol": symbol}
    if dataclasses.is_dataclass(default):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    path: str = option("???", "folder or hub name of the policy to start from, in Hugging Face layout")
    dtype: Literal["float32", "bfloat16"] = option("float32", "number type of the weights; adapters stay in float32")
    lora_rank: int = option(0, "rank of the LoRA adapters; 0: all weights are trained. With adapters p_ref is the policy without them")
    lora_alpha: float = option(64.0, "LoRA scale: adapters count lora_alpha / lora_rank")
    lora_dropout: float = option(
        0.0, "dropout on the input of the adapters, in gradient steps on a loss that is linear in the log-probabilities"
    )
    lora_targets: list[str] = option(
        ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"], "linear layers of every block that get an adapter"
    )
    quantize: Literal["none", "nf4"] = option("none", "keep the frozen weights in 4 bits (bitsandbytes, CUDA, LoRA only)")
    gradient_checkpointing: bool = option(False, "recompute each block in the backward pass instead of keeping its activations")
    compile: Literal["none", "default", "reduce-overhead"] = option(
        "none",
        "torch.compile mode of the policy's blocks, for long runs on CUDA: the first pass of each shape takes long, later ones "
        "launch fewer kernels; `reduce-overhead` adds CUDA graphs",
    )
    vocabulary: Literal["allowed", "full"] = option(
        "allowed", "`allowed` never generates the mask token or padded rows; `full` is the published softmax over all rows"
    )


@dataclass
class TaskConfig:
    name: Literal["sudoku", "countdown", "gsm8k", "math500"] = option("sudoku", "which task to train on and to be graded by")
    train: str = option("???", "training items: a file with the task's columns, or a hub data set as name:split", symbol="q")
    test: str = option("???", "test items, likewise")
    generate: Literal["blanks", "all", "chat"] = option(
        "blanks",
        "sudoku only. `blanks`: write into the blanks, the clues standing between them; `all`: all 16 cells after the puzzle; "
        "`chat`: the puzzle as a chat message, a free answer of sampler.response_length tokens",
    )
    reward: Literal["solved", "recipe", "published"] = option(
        "solved",
        "`solved`: 1 for a right answer, else 0; `recipe`: the components of the published recipe, mended where they are broken; "
        "`published`: those components as they were",
        symbol="r",
    )
    few_shot: int = option(0, "worked examples before the question, as earlier turns of the conversation")
    prefill: bool = option(False, "start the answer with <reasoning>, as the published evaluation does")
    prompt_file: Optional[str] = option(None, "text of the question instead of the task's own, with the same {fields}")


@dataclass
class SamplerConfig:
    name: Literal["random_order", "confidence", "random", "threshold", "factor", "wino"] = option(
        "random_order",
        "`random_order`: one token per step in a random order, with exact path log-probability; `confidence`: low-confidence "
        "remasking with a step budget; `random`: the same budget, random positions; `threshold`, `factor`: as many tokens at "
        "once as the model is sure enough of; `wino`: the same, and tokens that look wrong later are masked again",
    )
    temperature: float = option(1.0, "softmax temperature; 0 takes the most probable token")
    response_length: Optional[int] = option(None, "positions of the response; null: as many as the task's template has", symbol="L")
    block_length: Optional[int] = option(None, "positions per block, blocks go left to right; null: the whole response is one block")
    steps: Optional[int] = option(None, "forward passes for the whole response; null: one token per step")
    threshold: Optional[float] = option(
        None, "`threshold` and `wino` place every position of this confidence; null: 0.9 and 0.6, as published", symbol="τ"
    )
    back_threshold: float = option(0.9, "`wino` masks again what is less probable than this once its neighbours stand", symbol="τ_back")
    factor: float = option(1.0, "`factor` places the longest run, by falling confidence, with c_k ≥ 1 − f/(k + 1)", symbol="f")
    cache: Literal["none", "prefix", "dual"] = option(
        "none",
        "within a block keep keys and values of what comes before it (`prefix`) or of all outside it (`dual`); "
        "for confidence, threshold and factor",
    )
    guidance: float = option(
        0.0, "classifier-free guidance: logits u + (s + 1)(c − u), u with the prompt masked; 0: none; above, twice the cost", symbol="s"
    )
    stop_early: bool = option(False, "a row whose answer has ended is filled up with its end token and costs nothing more; for evaluation")
    micro_batch: Optional[int] = option(None, "sequences in one forward pass; null: all")


@dataclass
class WeightConfig:
    target: Literal["tilted", "reward_softmax", "reward"] = option(
        "tilted", "`tilted`: p* ∝ p_ref e^{r/α}; `reward_softmax`: ℓ = r (published α = 0); `reward`: w = r (published α = −1)"
    )
    alpha: float = option(0.1, "temperature of the target, reward per nat, above 0", symbol="α")
    log_ratio: Literal["path", "elbo", "none"] = option(
        "path",
        "estimate of log p_ref − log p_old: along the rollout's order (random_order only), both ELBOs on the same masks, "
        "or 0 (the reference is the rollout policy, so the target moves with it)",
    )
    elbo_masks: Literal["exact", "stratified", "antithetic", "paper"] = option(
        "antithetic", "mask scheme of the ELBOs of `log_ratio: elbo`, as in loss.masks"
    )
    elbo_replicates: int = option(4, "masks for each ELBO of `log_ratio: elbo`", symbol="R")
    baseline: Literal["none", "uniform", "negative", "model"] = option("none", "weight baseline", symbol="w_base")
    baseline_strength: float = option(1.0, "w_real = w − strength · w_base")
    target_ess: Optional[float] = option(
        None, "share of the N rollouts, 0 to 1: temper ℓ by the largest c ≤ 1 that reaches it; null: c = 1", symbol="c"
    )


@dataclass
class LossConfig:
    name: Literal["wdce", "wddo", "diffu_grpo", "wd1", "reinforce", "log_variance"] = option(
        "wdce",
        "`wdce`: weighted denoising cross-entropy; `wddo`: weighted direct discriminative optimisation. Rivals, which have "
        "their own masks and no use for weight.* but α: `diffu_grpo` (d1) and `wd1`, by one-shot log-probabilities; `reinforce` "
        "and `log_variance` (temperature weight.alpha), by exact path log-probabilities",
    )
    masks: Literal["exact", "stratified", "antithetic", "paper", "path"] = option(
        "antithetic",
        "wdce, wddo: mask scheme of the NELBO (`paper` is biased); `path`: the rollout's own order, exact log-probability",
    )
    num_replicates: int = option(2, "wdce, wddo: masks per rollout and step (not for `path`)", symbol="R")
    normalise: Literal["length", "none"] = option("length", "wdce: divide the NELBO by L, as published, or not")
    kl: float = option(
        0.0, "diffu_grpo: weight of the KL to p_ref beside the clip loss; reinforce: the same, reward per nat; 0: none", symbol="β"
    )
    clip: float = option(0.2, "diffu_grpo: ratios count between 1 − ε and 1 + ε", symbol="ε")
    micro_batch: Optional[int] = option(None, "masked sequences in one forward and backward pass; null: all")


@dataclass
class OptimizerConfig:
    learning_rate: float = option(1e-4, "AdamW learning rate at its highest")
    beta1: float = option(0.9, "AdamW β₁, decay of the mean of the gradients")
    beta2: float = option(0.99, "AdamW β₂, decay of the mean of their squares")
    weight_decay: float = option(0.0, "AdamW decoupled weight decay")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm")
    schedule: Literal["constant", "linear", "cosine"] = option(
        "constant", "learning rate over the run: constant, or to 0 by line or cosine"
    )
    warmup_steps: int = option(0, "gradient steps of linear warm-up")


@dataclass
class TrainConfig:
    rounds: int = option(50, "rounds of: draw rollouts, score, several gradient steps")
    prompts_per_round: int = option(8, "prompts in a round", symbol="G")
    num_rollouts: int = option(16, "rollouts for each prompt", symbol="N")
    steps_per_round: int = option(4, "gradient steps on the buffer in a round", symbol="K")
    prompts_per_step: Optional[int] = option(None, "prompts of the buffer in one gradient step; null: as many as in a round")
    reuse_rounds: int = option(0, "rollouts of this many earlier rounds stay in the buffer, with the weights they were given")
    resync_every: int = option(0, "set p_ref ← p_θ every so many rounds; 0: never, p* is fixed")
    checkpoint_every: int = option(10, "rounds between checkpoints; the last round always writes one")
    keep_checkpoints: int = option(1, "so many of the newest checkpoints stay")
    log_prompts: int = option(1, "prompts of a round whose answers, with reward and weight, are written to rollouts.jsonl")
    score_micro_batch: Optional[int] = option(None, "sequences in one forward pass when likelihoods are scored; null: all")


@dataclass
class EvaluationConfig:
    every: int = option(0, "rounds between evaluations during training; 0: only after the last")
    num_items: Optional[int] = option(None, "the first so many test items; null: all")
    num_samples: int = option(1, "answers for each item")
    sampler: SamplerConfig = option(SamplerConfig, "sampler of the evaluation")


@dataclass
class Config:
    output: str = option("???", "folder of the run: metrics, checkpoints, config")
    seed: int = option(0, "key of every random stream")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "`auto` takes CUDA if it is there; CUDA_VISIBLE_DEVICES chooses which")
    threads: Optional[int] = option(None, "CPU threads; null: torch's choice. One is often faster for tiny models")
    log_with: Literal["none", "tensorboard", "wandb"] = option("none", "tracker beside metrics.jsonl")
    model: ModelConfig = option(ModelConfig, "the policy")
    task: TaskConfig = option(TaskConfig, "prompts and rewards")
    sampler: SamplerConfig = option(SamplerConfig, "sampler of the rollouts")
    weight: WeightConfig = option(WeightConfig, "from rewards to weights")
    loss: LossConfig = option(LossConfig, "objective")
    optimizer: OptimizerConfig = option(OptimizerConfig, "optimiser")
    train: TrainConfig = option(TrainConfig, "the loop")
    evaluation: EvaluationConfig = option(EvaluationConfig, "evaluation")


def load_config(source: str | Path, *overrides: str) -> Config:
    """Read a YAML file (or a preset by its name), apply `section.key=value` overrides, check, and return the config.

    A path in the file that starts with `./` or `../` is relative to the file, every other one to the current folder.

    Raises:
        FileNotFoundError: no such file or preset.
        ValueError: an unknown key (the nearest valid one is named), a value of the wrong type, or an impossible value.
    """
    path = find_config(source)
    try:
        from_file = OmegaConf.load(path)
    except Exception as error:  # the parser raises a family of its own; whatever it is, the file is not YAML
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(from_file):
        raise ValueError(f"{path}: a mapping of sections is needed, such as `train:` with `rounds: 10` under it")
    merged = merge(Config, (from_file, str(path)), (parse_overrides(overrides), "command line"))
    config = OmegaConf.to_object(merged)
    given = parse_overrides(overrides)
    for key in ("model.path", "task.train", "task.test"):
        value = OmegaConf.select(merged, key)
        if value.startswith(("./", "../")):
            # Made absolute in either case, so that the config that a run writes means the same wherever it is read.
            root = path.parent if OmegaConf.select(given, key) is None else Path.cwd()
            section, name = key.split(".")
            setattr(getattr(config, section), name, str((root / value).resolve()))
    check_config(config)
    return config


def load_options(cls: type, *overrides: str) -> Any:
    """A single dataclass of options from `key=value` overrides; errors as in `load_config`."""
    return OmegaConf.to_object(merge(cls, (parse_overrides(overrides), "command line")))


def parse_overrides(overrides: tuple[str, ...]) -> DictConfig:
    """`section.key=value` words, values read as YAML."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ValueError(f"override {override!r} is not of the form section.key=value")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # again a parser's own family of errors
        raise ValueError(f"command line: {' '.join(str(error).split())}") from error


def merge(cls: type, *layers: tuple[Any, str]) -> DictConfig:
    """The defaults of a dataclass, overlaid with layers of (values, where they came from)."""
    merged = OmegaConf.structured(cls)
    for layer, origin in layers:
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ValueError(explain(error, origin, cls)) from error
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ValueError(f"{layers[0][1]}: {missing[0]} is not set; add it there or give {missing[0]}=… on the command line")
    return merged


def find_config(source: str | Path) -> Path:
    """Path of a config file, or of the preset of that name."""
    for path in (Path(source), PRESETS / f"{source}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
    raise FileNotFoundError(f"no config file {source}: give the path of a YAML file or a preset ({names})")


def to_yaml(config: Config) -> str:
    """The complete config as YAML, as `load_config` reads it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def explain(error: OmegaConfBaseException, origin: str, cls: type) -> str:
    """One line for an error of the configuration library: which key, what was wrong, what would be right."""
    key, known = error.full_key or "", list(describe_options(cls))
    sections = sorted({k.rsplit(".", 1)[0] for k in known if "." in k})
    if key and key not in [*known, *sections]:
        nearest = difflib.get_close_matches(key, [*known, *sections], n=1, cutoff=0.0)[0]
        return f"{origin}: unknown key {key[:80]!r}; did you mean {nearest!r}?"
    message = str(error).splitlines()[0]
    if "Merge error" in message:
        message = "a section must be a mapping of options, such as `train:` with `rounds: 10` under it"
    wanted = f" (wanted: {describe_options(cls)[key][0]}; {describe_options(cls)[key][2]})" if key in known else ""
    return f"{origin}: {key + ': ' if key else ''}{message}{wanted}"


def describe_options(cls: type = Config, prefix: str = "") -> dict[str, tuple[str, Any, str, str]]:
    """Every option: dotted key → (type, default, help, symbol), in the order of the dataclasses."""
    found = {}
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            found |= describe_options(kind, f"{prefix}{item.name}.")
        else:
            name = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
            name = name.replace("typing.", "").replace("Literal", "one of ").replace("Optional", "optional ")
            default = item.default if item.default is not dataclasses.MISSING else item.default_factory()
            found[prefix + item.name] = (name, default, item.metadata["help"], item.metadata["symbol"])
    return found


def get_option(config: Config, key: str) -> Any:
    """The value of an option by its dotted key."""
    return reduce(getattr, key.split("."), config)


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


def check_sampler(sampler: SamplerConfig, section: str) -> None:
    """The part of `check_sampling` that can be known before the length of the response is."""
    if not (sampler.temperature >= 0 and math.isfinite(sampler.temperature)):
        raise ValueError(f"{section}.temperature={sampler.temperature}: must be 0 (most probable token) or above")
    for name in ("response_length", "block_length", "steps"):
        value = getattr(sampler, name)
        if value is not None and value < 1:
            raise ValueError(f"{section}.{name}={value}: must be at least 1, or null")
    for name in ("threshold", "back_threshold"):
        value = getattr(sampler, name)
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"{section}.{name}={value}: a probability, above 0 and at most 1")
    if sampler.factor <= 0:
        raise ValueError(f"{section}.factor={sampler.factor}: must be above 0")
    if not (sampler.guidance >= 0 and math.isfinite(sampler.guidance)):
        raise ValueError(f"{section}.guidance={sampler.guidance}: must be 0 (no guidance) or above")
    if sampler.guidance and sampler.name == "wino":
        raise ValueError(f"{section}.guidance={sampler.guidance}: wino has no guidance; use 0, or another sampler")
    if sampler.cache != "none" and sampler.name in ("random_order", "random", "wino"):
        raise ValueError(f"{section}.cache={sampler.cache}: {sampler.name} has no cache; use none, or confidence, threshold or factor")
    if sampler.name in ("threshold", "factor", "wino") and sampler.steps is not None:
        raise ValueError(f"{section}.steps={sampler.steps}: {sampler.name} takes as many steps as it needs; use null")
    if sampler.name == "random_order" and sampler.steps is not None:
        raise ValueError(f"{section}.steps={sampler.steps}: random_order places one token per step; use null, or name=random")
