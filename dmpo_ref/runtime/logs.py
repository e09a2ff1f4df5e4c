"""What a run writes besides its checkpoints: run.json, config.yaml, metrics.jsonl, rollouts.jsonl, and a tracker if configured."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import Config, flat, shorten
from dmpo_ref.objectives.base import need
from dmpo_ref.presets.loading import to_yaml
from dmpo_ref.rollout import Experience, Rollout
from dmpo_ref.runtime.files import EntryFile, as_lines, read_entries, write_atomically
from dmpo_ref.runtime.origin import record_start
from dmpo_ref.runtime.processes import Processes
from dmpo_ref.runtime.state import TrainState
from dmpo_ref.tasks.encoding import trajectory
from dmpo_ref.tasks.rewards import plain_float
from dmpo_ref.weights import effective_sample_size

NAMES = ("metrics.jsonl", "rollouts.jsonl")
COSTS = ("seconds", "forward_passes")  # the second too: a run that ends earlier is evaluated earlier


class RunLog:
    """The log files of a run, opened when there is something to write: a run that fails at once leaves nothing behind.

    Attributes:
        earlier: metrics of the rounds before the run was resumed.
    """

    def __init__(self, config: Config, processes: Processes, *, before_round: int, from_python: Collection[str] = ()):
        self.config, self.processes, self.output = config, processes, Path(config.output)
        self.before_round, self.from_python = before_round, list(from_python)
        self.entries = {name: read_entries(self.output / name, before_round=before_round) for name in NAMES}
        self.earlier = self.entries["metrics.jsonl"]
        self.files: dict[str, EntryFile] = {}

    def write(self, metrics: list[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
        """Add the metrics of a round, one entry for each gradient step, and its lines of rollouts.jsonl."""
        tracker = self.processes.accelerator if self.config.log_with != "none" else None
        if self.processes.is_main:
            if not self.files:
                record_start(self.config, round_number=self.before_round, from_python=self.from_python)
                write_atomically(self.output / "config.yaml", to_yaml(self.config))
                self.files = {name: EntryFile(self.output / name, self.entries[name]) for name in NAMES}
                if tracker:
                    shown = {key: str(value) if isinstance(value, list) else value for key, value in flat(self.config).items()}
                    tracker.init_trackers("dmpo_ref", config=shown)
            for name, entries in zip(NAMES, (metrics, answers), strict=True):
                self.files[name].write(entries)
        if tracker:
            for entry in metrics:
                tracker.log(entry, step=entry["step"])

    def close(self) -> None:
        """End the tracker, and the communication between processes."""
        if self.processes.accelerator:
            # DDP keeps a reference to the process group, whose threads would outlive it and sometimes abort the process as it ends.
            self.processes.prepared = None
            self.processes.accelerator.free_memory()
            self.processes.accelerator.end_training()


def as_metrics(returned: Any, taken: set[str]) -> dict[str, Any]:
    """What `on_round` returned, as numbers, or lists of numbers, by name; None counts as nothing.

    Raises:
        ValueError: it is no dictionary, a value is no number or list of numbers, or a name is `taken` by another metric.
    """
    if returned is None:
        return {}
    if not isinstance(returned, dict) or not all(isinstance(name, str) for name in returned):
        raise ValueError(f"on_round returned {shorten(repr(returned), 60)}; return None, or a dictionary from names to numbers")
    if double := sorted(returned.keys() & {*taken, "evaluation/accuracy"}):
        raise ValueError(f"on_round returned a value for {double[0]!r}, which is a metric of the run; choose another name")
    try:
        return {name: [*map(plain_float, value)] if isinstance(value, list) else plain_float(value) for name, value in returned.items()}
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from tensors that hold no number, or more than one
        raise ValueError(f"on_round returned {shorten(repr(returned), 60)}; every value must be a number, or a list of numbers") from None


def check_earlier(entries: list[dict[str, Any]], state: TrainState, output: Path) -> None:
    """Refuse to go on after metrics that are not those of the rounds done, all of which a resumed run returns.

    Args:
        entries: of metrics.jsonl before the round of the state; later ones, of a run that was killed after them, do not matter.

    Raises:
        ValueError: a round has no entry, or the last entry is not the one that the run had written when it saved this state.
    """
    if missing := sorted(set(range(state.round)) - {entry["round"] for entry in entries}):
        problem = f"has no line of round {missing[0]}"
    elif entries and (entries[-1].get("step") != state.step or state.last_line not in ("", as_lines(entries[-1:]))):
        problem = f"does not end round {state.round - 1} with the line of step {state.step} that this run wrote"
    else:
        return
    remedy = f"put the file of this run back, or start another run from its policy, model.path={output}"
    raise ValueError(f"{output / 'metrics.jsonl'} {problem}, which --resume goes on after; {remedy}")


def first_difference(then: list[dict[str, Any]], now: list[dict[str, Any]]) -> str | None:
    """The first metric that differs between two runs, in words; None if all that both have are equal, except for time and passes."""
    for before, after in zip(then, now, strict=False):
        for name in before:
            if name in after and name not in COSTS and before[name] != after[name]:
                return f"step {before.get('step')}: {name} {after[name]} instead of {before[name]}"
    return None


def describe_round(
    experience: Experience, components: dict[str, float], end_tokens: Collection[int], *, target: str, own: int | None = None
) -> dict[str, float | None]:
    """Metrics of a round's rollouts: rewards with the mean of each component, lengths, weights and log-ratios.

    Args:
        target: `weight.target`; rewards as weights have no effective sample size.
        own: how many rollouts of each prompt, the first ones, the policy drew; the mean reward is theirs. p_ref drew the others. None: all.
    """
    reward, weight = experience.reward, experience.weight
    log_ratio, coefficient = need(experience.log_ratio), need(experience.coefficient)
    return {
        "reward": reward[:, :own].mean().item(),
        **components,
        "reward_std": reward.std(dim=-1, correction=0).mean().item(),
        "frac_reward_zero_std": (reward.amax(dim=-1) == reward.amin(dim=-1)).double().mean().item(),
        "answer_length": answer_length(experience.rollout, end_tokens),
        "ess": effective_sample_size(weight).mean().item() if target != "reward" else None,
        "coefficient": coefficient.mean().item(),
        "log_ratio_mean": log_ratio.mean().item(),
        "log_ratio_std": log_ratio.std(dim=-1, correction=0).mean().item(),
        "weight_max": weight.amax(dim=-1).mean().item(),
    }


def answer_length(rollout: Rollout, end_tokens: Collection[int]) -> float:
    """Mean number of generated tokens of a rollout up to its first end token, that one included."""
    ends = torch.tensor(sorted(end_tokens), device=rollout.tokens.device)
    is_end = rollout.response_mask & torch.isin(rollout.tokens, ends)
    after_end = is_end.cumsum(dim=-1) - is_end.long() > 0
    return (rollout.response_mask & ~after_end).sum(dim=-1).double().mean().item()


def describe_answers(
    experience: Experience, texts: list[list[str]], tokenizer: PreTrainedTokenizerBase, round_number: int
) -> list[dict[str, Any]]:
    """The lines of rollouts.jsonl for a round: each prompt that `texts` answers, and the answers with reward, weight and trajectory."""
    shown = torch.arange(len(texts), device=experience.reward.device)
    rollout = experience.rollout.select(shown).to(torch.device("cpu"))  # once, not for each answer
    entries = []
    for g, texts_of_prompt in enumerate(texts):
        rated = zip(texts_of_prompt, experience.reward[g].tolist(), experience.weight[g].tolist(), strict=True)
        answers = [{"text": t, "reward": r, "weight": w, **trajectory(tokenizer, rollout, g, n)} for n, (t, r, w) in enumerate(rated)]
        prompt = tokenizer.decode(asked_tokens(rollout, g, tokenizer.mask_token_id))
        entries.append({"round": round_number, "prompt": prompt, "answers": answers})
    return entries


def asked_tokens(rollout: Rollout, g: int, mask_token_id: int) -> Tensor:
    """The tokens of a prompt; if it is empty, the clues between the masks of the response, which are the question."""
    given = rollout.tokens[g, 0].masked_fill(rollout.response_mask[g, 0], mask_token_id)
    asked = rollout.prompt_mask[g, 0]
    return given[asked if asked.any() else rollout.attention_mask[g, 0]]
