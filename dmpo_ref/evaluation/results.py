"""Results files: every answer of an evaluation, one JSON object a line, so that a killed evaluation can continue where it stopped.

`<name>.jsonl` begins with a line that says what was evaluated; the others are {index, sample, question, ground_truth,
generation, num_tokens}, in this order. `<name>.timing.jsonl` holds what each batch of items has cost. Until all answers are
there, both are kept in `<name>.jsonl.<process>.part`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmpo_ref.config import Config, flat
from dmpo_ref.evaluation.answering import ITEMS_PER_BATCH, Answer, answer_items
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.fingerprint import fingerprint_parts
from dmpo_ref.presets.loading import validate
from dmpo_ref.runtime.files import EntryFile, as_lines, read_lines, write_atomically
from dmpo_ref.runtime.origin import digest_of_prompt, versions
from dmpo_ref.tasks.base import Task

# What an answer depends on; an evaluation continues only if all of it is unchanged. A folder of adapters describes them itself.
DECISIVE = ("seed", "model.", "task.", "evaluation.num_samples", "evaluation.sampler.")
NOT_DECISIVE = (
    *("model.lora_rank", "model.lora_alpha", "model.lora_dropout", "model.lora_targets"),
    *("model.gradient_checkpointing", "model.compile", "model.float32_logits"),
    *("task.train", "task.reward", "evaluation.sampler.micro_batch"),
)
ANSWER: dict[str, Any] = {"index": int, "sample": int, "num_tokens": int, "question": object, "ground_truth": object, "generation": object}
COST: dict[str, Any] = {"first": int, "answers": int, "seconds": (int, float), "forwards": int}


def evaluate_to_file(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: list,
    config: Config,
    vocabulary: Vocabulary,
    path: Path,
    *,
    parts: dict[str, str] | None = None,
    process: int = 0,
    num_processes: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> None:
    """Answer every item `evaluation.num_samples` times, into a results file; answers that it holds already are kept.

    Args:
        path: ends in .jsonl.
        parts: `fingerprint_parts` of the policy; None: they are computed here.
        process, num_processes: which share of the batches is this process's.
        wait: blocks until every process has called it.

    Raises:
        ValueError: the file holds answers of another policy, to other items, or under other options; the first one that differs is
            named.
    """
    config = validate(config)
    header, num_samples = describe_evaluation(config, parts), config.evaluation.num_samples
    path.parent.mkdir(parents=True, exist_ok=True)
    done, _ = read_all(path, header)
    check_items(done, task, items, path)
    wait()  # no process writes before all have read
    missing = {i - i % ITEMS_PER_BATCH for i in range(len(items)) for n in range(num_samples) if (i, n) not in done}
    part = path.with_name(f"{path.name}.{process}.part")
    if mine := sorted(missing)[process::num_processes]:
        file = None
        sampler, seed = config.evaluation.sampler, config.seed
        for batch in answer_items(model, tokenizer, task, items, sampler, vocabulary, mine, num_samples=num_samples, seed=seed):
            answers = [as_line(answer, task, items) for answer in batch.answers if (answer.index, answer.sample) not in done]
            cost = {"first": batch.answers[0].index, "answers": len(batch.answers), "seconds": round(batch.seconds, 4)}
            cost |= {"forwards": batch.forwards, "fed_tokens": batch.fed_tokens}
            # Created only when there is an answer; a line that a crash cut off is left out.
            file = file or EntryFile(part, [header, *read_part(part, header)])
            # The cost goes first: if a crash cuts these lines off, answers are missing and the batch is run again.
            file.write([cost, *answers])
    wait()
    # Parts next to a finished file: the process was killed before it removed them.
    if process == 0 and (not path.is_file() or parts_of(path)):
        merge_parts(path, header)


def check_items(done: dict[tuple[int, int], dict[str, Any]], task: Task, items: list, path: Path) -> None:
    """Refuse stored answers, by (index, sample), whose questions are not those of the items."""
    for (i, _), line in done.items():
        if i < len(items) and [line.get("question"), line.get("ground_truth")] != json.loads(json.dumps(task.record(items[i]))):
            raise ValueError(f"{path}: item {i} of task.test is another one now; choose another output folder")


def merge_parts(path: Path, header: dict[str, Any]) -> None:
    """Put the parts of all processes in order, answers in one file, their cost in another, and remove the parts."""
    answers, costs = read_all(path, header)
    write_atomically(timing_of(path), as_lines([costs[key] for key in sorted(costs)]))
    write_atomically(path, as_lines([header, *(answers[key] for key in sorted(answers))]))
    for part in parts_of(path):
        part.unlink()


def timing_of(path: Path) -> Path:
    """The file that holds the cost of a results file."""
    return path.with_name(f"{path.stem}.timing.jsonl")


def parts_of(path: Path) -> list[Path]:
    """The files that the processes of an interrupted evaluation have written."""
    return sorted(path.parent.glob(f"{path.name}.*.part"))


def read_all(path: Path, header: dict[str, Any]) -> tuple[dict[tuple[int, int], dict[str, Any]], dict[int, dict[str, Any]]]:
    """(answers by index and sample, costs by first index) of a results file and of the parts of interrupted processes."""
    lines = [line for file in (path, *parts_of(path)) for line in read_part(file, header)]
    costs = only([*read_lines(timing_of(path)), *lines], COST)
    return {(line["index"], line["sample"]): line for line in only(lines, ANSWER)}, {line["first"]: line for line in costs}


def read_part(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers and costs in a file after its header, none if there is no file. Damaged lines are left out, and their items
    are asked again.

    Raises:
        ValueError: the header is not the one wanted, or an answer occurs twice.
    """
    lines = read_lines(path)
    first = (lines[0] if lines else None) or {}
    if path.is_file() and path.stat().st_size and not isinstance(first.get("setting"), dict):
        raise ValueError(f"{path}: the first line does not say what was evaluated; move the file away, or choose another output folder")
    if any(lines[1:]):  # else there is nothing that could be stale
        check_header(path, first, header)
    places: dict[tuple[int, int], int] = {}
    for number, line in enumerate(lines, start=1):
        for answer in only([line], ANSWER):
            if (key := (answer["index"], answer["sample"])) in places:
                problem = f"item {key[0]}, answer {key[1]} stands in line {places[key]} already"
                raise ValueError(f"{path}, line {number}: {problem}; remove one of the two lines")
            places[key] = number
    return only(lines, ANSWER) + only(lines, COST)


def only(lines: Sequence[dict[str, Any] | None], fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines that have these fields, of these types."""
    return [line for line in lines if line and all(name in line and isinstance(line[name], kind) for name, kind in fields.items())]


def check_header(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a file that was made with other settings, naming the first that differs."""
    if then.keys() != now.keys() or not all(isinstance(then[part], dict) for part in ("setting", "policy", "versions")):
        problem = "was made by an earlier version, which noted less of what decides an answer"
        raise ValueError(f"{path} {problem}; dmpo grade and dmpo table read it as it is; choose another output folder to evaluate anew")
    before, after = (line["setting"] | line["policy"] | line["versions"] | {"prompt_text": line["prompt_text"]} for line in (then, now))
    for key in after | before:
        if before.get(key) != after.get(key):
            different = f"{key}={before.get(key)}, not {after.get(key)}"
            raise ValueError(f"{path} was made with {different}; choose another output folder, or remove it")


def grid(config: Config, lengths: list[int], samplers: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Names of the results files, and config overrides, of one evaluation for each length and sampler; [] means as in the config.

    Args:
        lengths: generation lengths in tokens; the steps grow in proportion.
        samplers: names, with `+prefix` or `+dual` for a cache.

    Raises:
        ValueError: a length for a task whose template fixes it.
    """
    sampler = config.evaluation.sampler
    if lengths and sampler.response_length is None:
        raise ValueError(f"--lengths: {config.task.name} answers into a template here, which has its own length; leave it out")
    chosen: list[int | None] = [*lengths] or [sampler.response_length]
    for length in chosen:
        for word in samplers or [f"{sampler.name}+{sampler.cache}"]:
            name, cache = word.split("+", 1) if "+" in word else (word, "none")
            steps = sampler.steps if name in ("confidence", "random") else None
            if steps and length and sampler.response_length:
                steps = steps * length // sampler.response_length
            options = {"name": name, "cache": cache, "response_length": length, "steps": steps}
            overrides = [f"evaluation.sampler.{key}={'null' if value is None else value}" for key, value in options.items()]
            yield "_".join(str(part) for part in (config.task.name, length, word.removesuffix("+none")) if part is not None), overrides


def describe_evaluation(config: Config, parts: dict[str, str] | None = None) -> dict[str, Any]:
    """First line of a results file: every option that decides an answer, digests of the policy's files and of the prompt file's
    text, and versions. The items are stored with their answers, and are compared one by one.

    Args:
        parts: as in `evaluate_to_file`.
    """
    chosen = {key: value for key, value in flat(config).items() if key.startswith(DECISIVE) and not key.startswith(NOT_DECISIVE)}
    parts = fingerprint_parts(config.model.path) if parts is None else parts
    digests = {f"model.path {name}": value[:16] for name, value in parts.items()}
    prompt = digest_of_prompt(config).get("task.prompt_file")
    return {"setting": chosen, "policy": digests, "prompt_text": prompt and prompt[:16], "versions": versions()}


def as_line(answer: Answer, task: Task, items: list) -> dict[str, Any]:
    """An answer as a line of a results file."""
    question, truth = task.record(items[answer.index])
    asked = {"index": answer.index, "sample": answer.sample, "question": question, "ground_truth": truth}
    return asked | {"generation": answer.generation, "num_tokens": answer.num_tokens}


def describe_cost(path: Path) -> str:
    """Tokens and seconds per answer, and forward passes, over a finished results file, in one line."""
    answers, costs = only(read_lines(path), ANSWER), only(read_lines(timing_of(path)), COST)
    tokens, seconds = (sum(line[key] for line in lines) / len(answers) for lines, key in ((answers, "num_tokens"), (costs, "seconds")))
    if not costs:
        return f"{path.stem}: {tokens:.1f} tokens an answer; {timing_of(path)} is missing, which held what they have cost"
    passes = sum(line["forwards"] for line in costs)
    return f"{path.stem}: {tokens:.1f} tokens and {seconds:.3f} s an answer, {passes} forward pass{'es' * (passes != 1)}"
