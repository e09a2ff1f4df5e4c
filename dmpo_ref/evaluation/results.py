"""Results files: every answer of an evaluation, one JSON object a line, so that a killed evaluation can go on where it stopped.

`<name>.jsonl` begins with a line that says what was evaluated; the others are {index, sample, question, ground_truth,
generation, num_tokens}, in this order. `<name>.timing.jsonl` holds what each batch of items has cost. Until all answers are
there, both are kept in `<name>.jsonl.<process>.part`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmpo_ref.config import Config, flat
from dmpo_ref.evaluation.answering import ITEMS_PER_BATCH, Answer, answer_items
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.presets.loading import validate
from dmpo_ref.runtime.files import as_lines, write_atomically
from dmpo_ref.tasks.base import Task

# What an answer depends on; an evaluation goes on only if all of it is unchanged. A folder of adapters says itself what they are.
DECISIVE = ("seed", "model.", "task.", "evaluation.num_samples", "evaluation.sampler.")
NOT_DECISIVE = (
    *("model.lora_", "model.gradient_checkpointing", "model.compile"),
    *("task.train", "task.reward", "evaluation.sampler.micro_batch"),
)


def evaluate_to_file(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: list,
    config: Config,
    vocabulary: Vocabulary,
    path: Path,
    *,
    process: int = 0,
    num_processes: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> None:
    """Answer every item `evaluation.num_samples` times, into a results file; answers that it holds already are kept.

    Args:
        path: ends in .jsonl.
        process, num_processes: which share of the batches is this process's.
        wait: blocks until every process has called it.

    Raises:
        ValueError: the file holds answers of another policy, to other items, or under other options; the first one that differs is
            named.
    """
    config = validate(config)
    header, num_samples = describe(config), config.evaluation.num_samples
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {(line["index"], line["sample"]): line for line in read_all(path, header) if "index" in line}
    check_items(done, task, items, path)
    wait()  # no process writes before all have read
    missing = {i - i % ITEMS_PER_BATCH for i in range(len(items)) for n in range(num_samples) if (i, n) not in done}
    part = path.with_name(f"{path.name}.{process}.part")
    if mine := sorted(missing)[process::num_processes]:
        write_atomically(part, as_lines([header, *read_lines(part, header)]))  # without a line that a crash cut off
        sampler, seed = config.evaluation.sampler, config.seed
        for batch in answer_items(model, tokenizer, task, items, sampler, vocabulary, mine, num_samples=num_samples, seed=seed):
            answers = [as_line(answer, task, items) for answer in batch.answers if (answer.index, answer.sample) not in done]
            cost = {"first": batch.answers[0].index, "answers": len(batch.answers), "seconds": round(batch.seconds, 4)}
            cost |= {"forwards": batch.forwards, "fed_tokens": batch.fed_tokens}
            with part.open("a", encoding="utf-8") as file:
                # The cost goes first: if a crash cuts these lines off, answers are missing and the batch is run again.
                file.write(as_lines([cost, *answers]))
    wait()
    # Parts beside a finished file: the process was killed before it had removed them.
    if process == 0 and (not path.is_file() or parts_of(path)):
        merge_parts(path, header)


def check_items(done: dict[tuple[int, int], dict[str, Any]], task: Task, items: list, path: Path) -> None:
    """Refuse answers, by (index, sample), to other questions than the items of these numbers."""
    for (i, _), line in done.items():
        if i < len(items) and [line.get("question"), line.get("ground_truth")] != json.loads(json.dumps(task.record(items[i]))):
            raise ValueError(f"{path}: item {i} of task.test is another one now; choose another output folder")


def merge_parts(path: Path, header: dict[str, Any]) -> None:
    """Put the parts of all processes in order, answers in one file, their cost in another, and remove the parts."""
    lines = read_all(path, header)
    answers = {(line["index"], line["sample"]): line for line in lines if "index" in line}
    costs = {line["first"]: line for line in lines if "first" in line}
    write_atomically(timing_of(path), as_lines([costs[key] for key in sorted(costs)]))
    write_atomically(path, as_lines([header, *(answers[key] for key in sorted(answers))]))
    for part in parts_of(path):
        part.unlink()


def timing_of(path: Path) -> Path:
    """The file that holds the cost of a results file."""
    return path.with_name(f"{path.stem}.timing.jsonl")


def parts_of(path: Path) -> list[Path]:
    """What the processes of an interrupted evaluation have written."""
    return sorted(path.parent.glob(f"{path.name}.*.part"))


def read_all(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a results file, of its cost and of the parts of interrupted processes, as far as they are there."""
    return [line for file in (path, timing_of(path), *parts_of(path)) for line in read_lines(file, header)]


def read_lines(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a file after its header, none if there is no file; a line that a crash cut off is left out.

    Raises:
        ValueError: the header is not the one wanted.
    """
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    if lines and "setting" in lines[0] and lines[0] != header:
        then, now = (line["setting"] | {key: line[key] for key in line if key != "setting"} for line in (lines[0], header))
        key = next(key for key in {**then, **now} if then.get(key) != now.get(key))
        raise ValueError(f"{path} was made with {key}={then.get(key)}, not {now.get(key)}; choose another output folder, or remove it")
    return [line for line in lines if "setting" not in line]


def grid(config: Config, lengths: list[int], samplers: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Names of the results files, and config overrides, of one evaluation for each length and sampler; [] is what the config says.

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


def describe(config: Config) -> dict[str, Any]:
    """First line of a results file: every option that decides an answer, and digests of the weights and of the prompt file's text."""
    chosen = {key: value for key, value in flat(config).items() if key.startswith(DECISIVE) and not key.startswith(NOT_DECISIVE)}
    file = config.task.prompt_file
    prompt = None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return {"setting": chosen, "fingerprint": fingerprint(config.model.path), "prompt_text": prompt}


def fingerprint(source: str) -> str | None:
    """Short digest of the weights in a local folder (sizes, and the first and last MB of each file); None for a hub name."""
    folder = latest_checkpoint(Path(source)) or Path(source)
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read(1 << 20))
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16] if folder.is_dir() else None


def as_line(answer: Answer, task: Task, items: list) -> dict[str, Any]:
    """An answer as a line of a results file."""
    question, truth = task.record(items[answer.index])
    asked = {"index": answer.index, "sample": answer.sample, "question": question, "ground_truth": truth}
    return asked | {"generation": answer.generation, "num_tokens": answer.num_tokens}


def describe_cost(path: Path) -> str:
    """Tokens and seconds of an answer, and forward passes, of all that a finished results file holds, in one line."""
    answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    costs = [json.loads(line) for line in timing_of(path).read_text(encoding="utf-8").splitlines()]
    tokens, seconds = (sum(line[key] for line in lines) / len(answers) for lines, key in ((answers, "num_tokens"), (costs, "seconds")))
    passes = sum(line["forwards"] for line in costs)
    return f"{path.stem}: {tokens:.1f} tokens and {seconds:.3f} s an answer, {passes} forward passes"
