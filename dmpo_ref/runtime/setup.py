"""The parts of a run: `prepare_run` loads and checks all of them; nothing is written before the first round."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.nn import Module
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import Config
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.adapters import add_adapters
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.models.loading import latest_checkpoint, load_policy
from dmpo_ref.models.reference import AdapterReference, FrozenReference, Reference
from dmpo_ref.objectives import build_objective
from dmpo_ref.objectives.base import Objective
from dmpo_ref.presets.checks import check_own_objective
from dmpo_ref.presets.loading import validate
from dmpo_ref.runtime.checkpoint import Checkpoint, describe_damage, has_moved, load_checkpoint
from dmpo_ref.runtime.logs import RunLog, check_earlier
from dmpo_ref.runtime.origin import check_given, check_origin, check_output, digests_of_data, digests_of_start, warn_of_versions
from dmpo_ref.runtime.processes import Processes, build_accelerator, check_division
from dmpo_ref.runtime.prompts import PromptStream, find_fitting, load_items
from dmpo_ref.runtime.state import TrainState, build_optimizer
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.base import Task, check_task
from dmpo_ref.tasks.encoding import allowed_vocabulary


@dataclass
class RunParts:
    """Everything that the loop works on. Only the loop and the functions that write results take it as a whole.

    Attributes:
        config: with `model.path` pinned to one checkpoint.
        policy: p_θ. reference: p_ref; None if neither the log-ratio nor the objective needs it.
        prompts: the data stream. test_items: the first `evaluation.num_items`.
    """

    config: Config
    task: Task
    objective: Objective
    policy: LLaDAModelLM
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    reference: Reference | None
    prompts: PromptStream
    test_items: list[Any]
    state: TrainState
    log: RunLog
    processes: Processes


def prepare_run(
    config: Config, *, task: Task | None = None, objective: Objective | None = None, resume: bool = False, from_python: Collection[str] = ()
) -> RunParts:
    """Load and check everything that `train` needs; arguments and errors as in `train`.

    Args:
        from_python: names of the arguments of `train` that no config holds; they are recorded.
    """
    config, checkpoint = open_run(validate(config), resume=resume)
    if checkpoint is not None:
        check_given(config, from_python)
    if objective is None:
        objective = build_objective(config.loss, config.weight)
    else:
        objective = objective.with_baseline(config.weight.baseline)
        check_own_objective(config, objective)
    if task is None:
        task = build_task(config.task)
    else:
        check_task(task, has_reward="reward" in from_python)
    train_items, test_items = load_items(task, config.task)
    origin = digests_of_data(config, task, train_items, test_items)
    then = {} if checkpoint is None else checkpoint.state.get("origin", {})
    check_origin(then, origin, config)
    test_items = test_items[: config.evaluation.num_items]
    processes = Processes(build_accelerator(config))
    check_division(config.train, processes.count)
    policy, tokenizer, vocabulary = load_trainable(config, checkpoint, task, processes)
    needs_reference = config.weight.log_ratio != "none" or objective.uses_log_ref
    reference = load_reference(config, checkpoint, policy, processes) if needs_reference else None
    state = TrainState(*build_optimizer(policy, config.optimizer, config.train.rounds * config.train.steps_per_round))
    processes.prepare(policy)
    if checkpoint is not None:
        checkpoint.restore(state, processes)
    if processes.is_main and (checkpoint is None or needs_reference or config.model.lora_rank):  # else it is not read again
        origin |= digests_of_start(config)
        check_origin(then, origin, config)
    state.origin = origin | then
    max_length = policy.config.max_sequence_length
    train_items = find_fitting(train_items, task, tokenizer, config.sampler, max_length, kind="training", report=processes.is_main)
    # Test items that are too long stay: they count as wrong.
    find_fitting(test_items, task, tokenizer, config.evaluation.sampler, max_length, kind="test", report=processes.is_main)
    count_forwards(policy, reference, state, processes)
    prompts = PromptStream(train_items, config.train.prompts_per_round, config.seed, processes.index, processes.count)
    log = RunLog(config, processes, before_round=state.round, from_python=from_python)
    check_earlier(log.earlier, state, Path(config.output))
    if processes.is_main and checkpoint is not None:
        warn_of_versions(config)
    return RunParts(config, task, objective, policy, tokenizer, vocabulary, reference, prompts, test_items, state, log, processes)


def open_run(config: Config, *, resume: bool) -> tuple[Config, Checkpoint | None]:
    """The config with `model.path` pinned to a checkpoint, if it names a run, and the checkpoint of `output` to resume from.

    Raises:
        FileNotFoundError: nothing to resume from.
        ValueError: the output folder holds a run already, or p_ref; the policy cannot be trained with this config.
    """
    if (folder := latest_checkpoint(Path(config.model.path))) is not None:
        # Exactly this checkpoint: that run may continue, and p_ref must not change with it when this run is resumed.
        config = replace(config, model=replace(config.model, path=str(folder)))
    output, start = Path(config.output), Path(config.model.path)
    checkpoint = load_checkpoint(output, config) if resume else None
    if resume and checkpoint is None:
        check_output(config, has_checkpoint=False)  # the advice below must not lead to its refusal
        raise FileNotFoundError(f"output={output} holds no checkpoint to resume from; start without --resume")
    # Without a checkpoint there is nothing to lose: a run killed that early simply starts again.
    if not resume and latest_checkpoint(output) is not None:
        how = "continue it with --resume (from Python resume=True)"
        raise ValueError(f"output={output} already holds a run; {how}, or choose another output")
    check_output(config, has_checkpoint=checkpoint is not None)
    if output.resolve() == start.resolve():
        raise ValueError(f"output={output} is model.path too, where p_ref is read from; choose another output")
    if checkpoint is None and (start / "adapter_config.json").is_file():
        raise ValueError(f"model.path={start} holds adapters; start from a full checkpoint: dmpo export {start} merged --merge")
    if config.model.dtype == "bfloat16" and config.model.lora_rank == 0:
        # Adam's steps at usual learning rates are smaller than half the spacing of bfloat16 numbers: most would be lost.
        raise ValueError("model.dtype=bfloat16: bfloat16 weights lose small updates; use float32, or train adapters with model.lora_rank")
    return config, checkpoint


def load_trainable(
    config: Config, checkpoint: Checkpoint | None, task: Task, processes: Processes
) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase, Vocabulary]:
    """The policy to train, its tokenizer and its vocabulary: of a checkpoint, or the ones to start from, with new adapters if any."""
    start = config.model if checkpoint is None else replace(config.model, path=str(checkpoint.folder))
    # Adapters of a resumed run are loaded onto p_ref, which may have moved since.
    base = config.model.path if checkpoint is not None and config.model.lora_rank else None
    policy, tokenizer = load_policy(start, processes.device, trainable=True, base=base)
    if config.model.lora_rank and checkpoint is None:
        policy = add_adapters(policy, config.model, seed=config.seed)
    if config.model.gradient_checkpointing:
        # Its present name in Transformers, or its name in 5.0.
        enable: Any = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        # Remove the hook that makes embeddings require gradients: it is for reentrant checkpoints, and acts while sampling too.
        policy.disable_input_require_grads()
    vocabulary = allowed_vocabulary(config.model, task, policy, tokenizer)
    processes.shard(policy)  # before the next model is loaded
    return policy, tokenizer, vocabulary


def load_reference(config: Config, checkpoint: Checkpoint | None, policy: Module, processes: Processes) -> Reference:
    """p_ref as at the start of the run, or from a checkpoint if it has moved since: the policy without its adapters, or a second model."""
    reference: Reference
    if config.model.lora_rank:
        reference = AdapterReference(policy, processes.join)
    else:
        reference = FrozenReference(load_policy(config.model, processes.device)[0])
        processes.shard(reference.network)
    if checkpoint is not None and checkpoint.reference:
        reference.load(checkpoint.reference)
    elif checkpoint is not None and has_moved(config, checkpoint.state["round"]):
        raise ValueError(describe_damage(checkpoint.folder, FileNotFoundError("reference.safetensors is missing")))
    return reference


def count_forwards(policy: Module, reference: Reference | None, state: TrainState, processes: Processes) -> None:
    """Count the forward passes of the policy and the reference in this process: sampling, scoring, gradient steps, evaluation."""
    models = [policy, reference.network] if isinstance(reference, FrozenReference) else [policy]

    def count(module: Module, _: Any) -> None:
        # A copy of a model carries its hooks along; its passes are not this run's.
        is_ours = any(module is model for model in models)
        is_filler = processes.lockstep is not None and processes.lockstep.is_filler
        state.counters["forward_passes"] += is_ours and not is_filler

    for model in models:
        model.register_forward_pre_hook(count)
