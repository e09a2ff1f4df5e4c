"""The algorithm as one explicit loop: draw rollouts, weigh them once, take several gradient steps, repeat.

Distribution Matching Policy Optimization (arXiv 2510.08233, Algorithm 1). `minimal.py` is the same algorithm on one page. Here
each step is in a separate file: `samplers`, `experience.py` and `gradient.py`. Files, logs and processes are
handled in `runtime`. Random numbers are keyed by (seed, purpose, prompt), so neither batching nor the number of
processes changes them. Two exceptions: LoRA dropout depends on the micro-batch and the process, `prompts_per_step` on the process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import Config
from dmpo_ref.evaluation.answering import test_accuracy
from dmpo_ref.experience import collect, step_masks
from dmpo_ref.gradient import NotFinite, choose_batch, gradient_step
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.objectives.base import Objective
from dmpo_ref.runtime.checkpoint import save_checkpoint
from dmpo_ref.runtime.files import as_lines, claim
from dmpo_ref.runtime.interrupt import Interrupted, StopSignal
from dmpo_ref.runtime.logs import as_metrics, describe_answers, describe_round
from dmpo_ref.runtime.processes import is_first_process
from dmpo_ref.runtime.setup import RunParts, prepare_run
from dmpo_ref.runtime.watch import Watch, explain_not_finite, keep_batch
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.encoding import end_ids


@dataclass
class Trained:
    """Result of `train`: the policy (with FSDP2, this process's shard of it) and its tokenizer, the metrics of every step, the folder of
    the run, and whether this process writes to it."""

    policy: LLaDAModelLM
    tokenizer: PreTrainedTokenizerBase
    metrics: list[dict[str, Any]]
    output: Path
    is_main: bool


def train(
    config: Config,
    *,
    task: Task | None = None,
    reward: Callable[[Any, str], float] | None = None,
    objective: Objective | None = None,
    on_round: Callable[[int, LLaDAModelLM], dict[str, Any] | None] | None = None,
    resume: bool = False,
) -> Trained:
    """Fine-tune the policy of `config.model` towards p*(o|q) ∝ p_ref(o|q) · exp(r(q,o)/α).

    With `weight.log_ratio: none` p_ref is the policy that drew the rollouts, so p* moves in every round.

    Writes `metrics.jsonl` (one line per gradient step), `rollouts.jsonl` (answers to some prompts of each round), `config.yaml`,
    `run.json` (versions, command line) and checkpoints to `config.output`.

    Args:
        task: replaces the task of the config; an object like `tasks.sudoku.Sudoku`.
        reward: replaces the task's reward; a function of the item and the answer's text.
        objective: replaces the one that `config.loss` names. Like `task` and `reward` it is known by name only; give it again to resume.
        on_round: called after every round with (rounds done, policy), by every process; may return numbers, or lists of them, by name,
            which are added to the metrics. If it raises, the round is saved first, and a resumed run goes on with the next one; the same
            holds for an evaluation that raises, with one process.
        resume: continue the run in `config.output` from its newest checkpoint.

    Raises:
        FileNotFoundError, ValueError: an invalid config, file or reward; the message is one line.
        Interrupted: Ctrl-C or SIGTERM; the current round was finished and saved first. `resume=True` continues from there.
    """
    given = {"task": task, "reward": reward, "objective": objective, "on_round": on_round}
    from_python = [name for name, value in given.items() if value is not None]
    with claim(Path(config.output)) if is_first_process() else nullcontext():
        return loop(prepare_run(config, task=task, objective=objective, resume=resume, from_python=from_python), reward, on_round)


def loop(
    run: RunParts,
    reward: Callable[[Any, str], float] | None = None,
    on_round: Callable[[int, LLaDAModelLM], dict[str, Any] | None] | None = None,
) -> Trained:
    """Algorithm 1, starting at the current round of the run. Arguments as in `train`."""
    config, state, processes = run.config, run.state, run.processes
    policy, reference, vocabulary, objective = run.policy, run.reference, run.vocabulary, run.objective
    rounds, metrics = config.train.rounds, list(run.log.earlier)
    watch = Watch(config, own_objective="objective" in run.log.from_python)
    with StopSignal() as stop, tqdm(total=rounds, initial=state.round, desc="train", disable=None if processes.is_main else True) as bar:
        while state.round < rounds:
            # p_old ← p_θ: draw N rollouts for each of G prompts; reward, ℓ and w once.
            items, position = run.prompts.of_round(state.round)
            spare = run.prompts.spare_of_round(state.round, config.train.skip_equal_groups)
            models = policy, reference, run.tokenizer, vocabulary
            experience, texts, components, num_drawn = collect(
                *models, run.task, items, objective, config, position=position, reward=reward, spare=spare
            )
            state.buffer = [*state.buffer, experience][-(1 + config.train.reuse_rounds) :]

            # K gradient steps on the buffer. The policy that drew the rollouts is not needed again.
            steps = []
            for k in range(config.train.steps_per_round):
                batch = choose_batch(state.buffer, k, config, state.round, processes.count)
                masks = step_masks(objective, batch.rollout, batch.position, config.seed, k, state.step)
                try:
                    loss, grad_norm = gradient_step(
                        policy, state.optimizer, vocabulary, objective, batch, masks, config, step=state.step, processes=processes
                    )
                except NotFinite as error:
                    kept = keep_batch(Path(config.output), batch, state.step, processes.index)
                    raise ValueError(explain_not_finite(error, kept, latest_checkpoint(Path(config.output)))) from error
                steps.append(state.end_step(loss, grad_norm))

            # The end of a round: re-sync p_ref if configured, write metrics, save a checkpoint, stop after Ctrl-C.
            state.round += 1
            if reference and config.train.resync_every and state.round % config.train.resync_every == 0:
                reference.sync(policy)
            own = config.train.num_rollouts - config.train.num_reference_rollouts
            collected = describe_round(experience, components, end_ids(run.tokenizer), target=config.weight.target, own=own)
            answers = describe_answers(experience, texts[: config.train.log_prompts], run.tokenizer, state.round - 1)
            measured, failure = measure(run, on_round, taken={"round", *steps[-1], *collected, *state.counters})
            metrics += end_round(run, collected, steps, answers, measured, num_drawn)
            if processes.is_main:
                watch.look(collected, steps, experience.reward)
            stopping = processes.any(stop.requested)
            if failure or stopping or state.round % config.train.checkpoint_every == 0 or state.round == rounds:
                save_checkpoint(config, state, policy, run.tokenizer, reference, processes)
            if failure:
                raise failure
            bar.set_postfix(reward=collected["reward"], ess=collected["ess"])
            bar.update()
            if stopping and state.round < rounds:
                raise Interrupted(f"stopped after round {state.round} of {rounds}, saved in {config.output}")
    run.log.close()
    return Trained(policy, run.tokenizer, metrics, Path(config.output), processes.is_main)


def measure(
    run: RunParts, on_round: Callable[[int, LLaDAModelLM], dict[str, Any] | None] | None, taken: set[str]
) -> tuple[dict[str, Any], Exception | None]:
    """What `on_round` returns and, where it is due, the test accuracy; and an error of one of them, so that the round can be saved first.

    All processes have an error if `on_round` failed in one of them. With several processes an error of the evaluation is raised at once.

    Args:
        taken: names of other metrics, which `on_round` may not return.
    """
    config, state, processes, every = run.config, run.state, run.processes, run.config.evaluation.every
    found, failure = dict[str, Any](), None
    try:
        found = as_metrics(on_round(state.round, run.policy) if on_round else None, taken)
    except Exception as error:
        failure = error
    if processes.any(failure is not None):
        return found, failure or RuntimeError(f"on_round failed in another process, after round {state.round}")
    try:
        if state.round == config.train.rounds or (every and state.round % every == 0):
            found["evaluation/accuracy"] = test_accuracy(
                run.policy, run.tokenizer, run.task, run.test_items, config.evaluation, run.vocabulary,
                seed=config.seed, processes=processes,
            )  # fmt: skip
    except Exception as error:
        if processes.count > 1:  # the others wait for this one's answers, and would wait for good
            raise
        failure = error
    return found, failure


def end_round(
    run: RunParts,
    collected: dict[str, float | None],
    steps: list[dict[str, float | None]],
    answers: list[dict[str, Any]],
    measured: dict[str, Any],
    num_drawn: int,
) -> list[dict[str, Any]]:
    """Write and return the metrics of a finished round: one entry per gradient step, what was `measured` in the last one."""
    state, processes = run.state, run.processes
    state.count_seconds()
    state.counters["rollouts"] += int(processes.sum([num_drawn])[0])
    of_round, of_steps = processes.mean(collected), [processes.mean(step) for step in steps]
    entries: list[dict[str, Any]] = [{"round": state.round - 1, **of_step, **of_round, **state.counters} for of_step in of_steps]
    entries[-1] |= measured
    state.last_line = as_lines(entries[-1:])
    run.log.write(entries, answers)
    return entries
