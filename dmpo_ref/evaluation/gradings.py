"""Both gradings of answers in files: those of `dmpo evaluate`, and those that the published evaluations of d1 and DMPO write.

A published file is one JSON object, {"generations": [{"question", "generations", "ground_truth"}, …], "gen_length": …}, named
like `countdown_instruct_256_128_0_generations.json` (task, model, generation length, steps, process).
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from dmpo_ref.tasks import TASKS
from dmpo_ref.tasks.base import Grade, Verdict

PUBLISHED_NAMES = {"math": "math500"}  # names of tasks in published files that differ from those here
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution: 95 % intervals
GROW_WITH_LENGTH = {f"evaluation.sampler.{name}" for name in ("response_length", "steps", "block_length", "micro_batch")}
SHOWN = 5  # problems of a file that are told one by one
COST = ".timing.jsonl"  # ending of the files that hold the cost of the answers in a results file
NO_TRUTH = Verdict(0, 0, None, "nowhere", "the ground truth is null, as published files have it for negative ones; left out")
NEVER_ASKED = Verdict(0, 1, None, "not asked", "prompt and answer together are longer than the model can read; counts as wrong")


@dataclass(frozen=True)
class Item:
    """A graded answer.

    Attributes:
        file: the file that holds it.
        index, sample: the item, by its place from 0 in the test set (results) or in the file (published); which of its answers.
        run: the run it belongs to: the path as given, without the ending and the number of the process.
        task, length: name of the task; generation length in tokens, None where the task's template fixes it.
        generation: the raw text; None if it was never asked.
        made_by: policy, seed and sampler of a results file, as text; "" for published files, which do not say.
        question: as the file has it.
    """

    file: Path
    index: int
    sample: int
    run: str
    task: str
    length: int | None
    generation: str | None
    grade: Grade
    made_by: str = ""
    question: Any = None


@dataclass(frozen=True)
class Score:
    """Accuracy of one run on one task at one length under one grading.

    Attributes:
        right, total: points: answers, or blank cells for Sudoku's published rule.
        left_out: answers that do not count because their ground truth is null. The published grading counts them as wrong.
        num_items: different items. The interval counts these: the cells of one puzzle and the samples of one item are not
            independent.
        pass_at: k → share of items solved by at least one of k samples, where items have several (strict grading only).
        made_by: as in `Item`.
    """

    run: str
    task: str
    length: int | None
    grading: str
    right: int
    total: int
    num_items: int
    pass_at: dict[int, float]
    left_out: int = 0
    made_by: str = ""

    @property
    def accuracy(self) -> float:
        """Points divided by the largest possible number."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return wilson(self.accuracy, self.num_items)


def grade_files(paths: Iterable[str | Path]) -> tuple[list[Item], list[str]]:
    """Grade every answer of these files. One that is named twice is read once; files of costs are skipped.

    Returns:
        the graded answers, and one line for each thing that could not be read, of each file the first few; the readable part of a
        damaged file is graded.
    """
    files: dict[Path, Path] = {}
    items: list[Item] = []
    problems: list[str] = []
    for path in map(Path, paths):
        try:
            if not path.name.endswith(COST):
                files.setdefault(path.resolve(), path)
        except RuntimeError:  # before Python 3.13
            problems.append(f"{path} is a link that leads to itself")
    for path in files.values():
        unread: list[str] = []
        try:
            for found in grade_file(path):
                if isinstance(found, Item):
                    items.append(found)
                else:
                    unread.append(found)
        except (OSError, ValueError) as error:
            unread.append(str(error))
        problems += unread[:SHOWN]
        if len(unread) > SHOWN:
            problems.append(f"{path}: and {len(unread) - SHOWN} more that could not be read")
    return items, problems + describe_shards(items)


def describe_shards(items: list[Item]) -> list[str]:
    """What is wrong with the published files of a run, one for each process: a number is missing, or two hold the same questions."""
    problems = []
    by_run: dict[str, dict[Path, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in items:
        if item.file.suffix == ".json":
            by_run[item.run][item.file].add(str(item.question))
    for run, files in by_run.items():
        numbers = {int(found[1]): file for file in files if (found := re.search(r"_([0-9]{1,4})(?:_generations)?$", file.stem))}
        if len(numbers) == len(files) > 1 and (missing := set(range(min(numbers), max(numbers))) - numbers.keys()):
            problems.append(f"{run}: the file of process {min(missing)} is missing, and its answers with it")
        for first, second in combinations(files, 2):
            if 2 * len(files[first] & files[second]) > min(len(files[first]), len(files[second])):
                problems.append(f"{second} has the questions of {first}, and both are counted; give each answer once")
    return problems


def grade_file(path: Path) -> Iterator[Item | str]:
    """The graded answers of one file, and a line for each that could not be read."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark before it
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    yield from read_results(path, text) if path.suffix == ".jsonl" else read_generations(path, text)


def read_results(path: Path, text: str) -> Iterator[Item | str]:
    """A results file of `dmpo evaluate`."""
    lines = text.removesuffix("\n").split("\n")
    try:
        header = json.loads(lines[0])
        setting = header["setting"]
        task, length = setting["task.name"], setting["evaluation.sampler.response_length"]
        chosen = {key: value for key, value in setting.items() if key == "seed" or key.startswith("evaluation.sampler.")}
        made_by = json.dumps([header.get("policy"), {key: value for key, value in chosen.items() if key not in GROW_WITH_LENGTH}])
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path}: the first line must say what was evaluated, as dmpo evaluate writes it") from None
    check_setting(path, task, length)
    run = path.with_suffix("").as_posix()
    lines_of: dict[tuple[int, int], int] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            record = as_object(json.loads(line))
            index, sample = (check_count(record, name) for name in ("index", "sample"))
            if (first := lines_of.setdefault((index, sample), number)) != number:
                raise ValueError(f"item {index}, sample {sample} is in line {first} already, which is graded; remove one of them")
            grade = grade_record(task, record["question"], record["ground_truth"], record["generation"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            remedy = "; if it was cut off, the same dmpo evaluate completes it" if isinstance(error, json.JSONDecodeError) else ""
            yield f"{path}, line {number}: {describe_bad_line(error)}{remedy}"
            continue
        yield Item(path, index, sample, run, task, length, record["generation"], grade, made_by)


def read_generations(path: Path, text: str) -> Iterator[Item | str]:
    """A file of the published evaluation."""
    name = path.stem.removesuffix("_generations")
    word = name.partition("_")[0]
    task = PUBLISHED_NAMES.get(word, word)
    records, length, is_cut = parse_generations(text)
    if records is None:
        form = '{"generations": [{"question", "generations", "ground_truth"}, …]}'
        raise ValueError(f"{path}: not a file of generations; expected {form}")
    check_setting(path, task, length)
    if not records:
        yield f"{path} holds no answers"
    if is_cut:
        yield f"{path}: the JSON is cut off or broken after {len(records)} item{'s' * (len(records) != 1)}; what stands before is graded"
    in_name = re.fullmatch(rf"([^_]+_.+?_({length or '[0-9]+'})(?:_[0-9]+)?)(_[0-9]+)?", name)
    length = int(in_name[2]) if in_name else length
    # The processes of one evaluation write a file each; their number is the last part of the name.
    run = path.with_name(in_name[1] if in_name else re.sub(r"_[0-9]+$", "", name)).as_posix()
    for index, record in enumerate(records):
        try:
            question, generation, truth = as_object(record)["question"], record["generations"], record["ground_truth"]
            if generation is None:
                raise ValueError("generations must be a text, got null")
            grade = grade_record(task, question, truth, generation)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            yield f"{path}, item {index}: {describe_bad_line(error)}"
            continue
        yield Item(path, index, 0, run, task, length, generation, grade, question=question)


def parse_generations(text: str) -> tuple[list[Any] | None, Any, bool]:
    """(records, generation length, whether the text is cut off) of a published file; records is None if it is not one."""
    try:
        content = json.loads(text)
        records = content.get("generations") if isinstance(content, dict) else None
        return (records, content.get("gen_length"), False) if isinstance(records, list) else (None, None, False)
    except (ValueError, RecursionError):
        pass
    found = re.search(r'"generations"\s*:\s*\[', text)
    if found is None:
        return None, None, True
    records, decoder, end = [], json.JSONDecoder(), found.end()
    with suppress(ValueError, RecursionError):  # at the record that is cut off
        while (start := text.find("{", end)) >= 0:
            record, end = decoder.raw_decode(text, start)
            records.append(record)
    length = re.search(r'"gen_length"\s*:\s*(\d+)', text)
    return records, int(length[1]) if length else None, True


def as_object(record: Any) -> dict[str, Any]:
    """The record; ValueError unless it is a JSON object."""
    if not isinstance(record, dict):
        raise ValueError(f"an object with the fields of an answer is needed, got {str(record)[:40]!r}")
    return record


def check_setting(path: Path, task: Any, length: Any) -> None:
    """Refuse a file whose task is not known, or whose generation length is not a number of tokens; None is allowed."""
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"{path}: unknown task {task!r}; the tasks are {', '.join(TASKS)}, and a file's name must begin with one")
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(f"{path}: the generation length must be a whole number above 0, got {str(length)[:40]!r}")


def check_count(record: dict[str, Any], name: str) -> int:
    """A field of a record that counts from 0."""
    if type(record[name]) is not int or record[name] < 0:  # True is an int too
        raise ValueError(f"{name} must be a whole number from 0, got {str(record[name])[:40]!r}")
    return record[name]


def grade_record(task: str, question: Any, truth: Any, generation: Any) -> Grade:
    """Grade one answer of a file; ValueError if question and ground truth are not this task's, or the answer is not a text.

    Generation None: the item was never asked, which is as wrong as an empty answer, under both gradings.
    """
    item: Any = TASKS[task].from_record(question, truth)  # each task has its own type of item
    if generation is None:
        return Grade("not asked", NEVER_ASKED, replace(NEVER_ASKED, total=TASKS[task].grade(item, "").published.total))
    if not isinstance(generation, str):
        raise ValueError(f"the generation must be a text, got {str(generation)[:40]!r}")
    grade = TASKS[task].grade(item, generation)
    return replace(grade, strict=NO_TRUTH) if truth is None else grade


def describe_bad_line(error: Exception) -> str:
    """What was wrong with a record, in a line."""
    return f"the field {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())


def summarise(items: list[Item]) -> list[Score]:
    """Accuracy for each run × task × length × grading, in this order; none where no answer has a ground truth that counts."""
    groups: dict[tuple[str, int, str], list[Item]] = defaultdict(list)
    for item in items:
        groups[item.task, item.length or 0, item.run].append(item)
    scores = []
    for (task, length, run), group in sorted(groups.items()):
        for grading in ("published", "strict"):
            graded = [(item, verdict) for item in group if (verdict := getattr(item.grade, grading)).total]
            if not graded:
                continue
            by_item: dict[tuple[Path, int], list[bool]] = defaultdict(list)
            for item, _ in graded:
                by_item[item.file, item.index].append(item.grade.correct)
            right, total = sum(verdict.right for _, verdict in graded), sum(verdict.total for _, verdict in graded)
            pass_at = pass_at_k(list(by_item.values())) if grading == "strict" else {}
            left_out = len(group) - len(graded)
            scores.append(Score(run, task, length or None, grading, right, total, len(by_item), pass_at, left_out, group[0].made_by))
    return scores


def pass_at_k(samples: list[list[bool]]) -> dict[int, float]:
    """Mean over items of the probability that k of the n samples, drawn without replacement, contain a right one; k = 1, 2, 4, … ≤ n.

    pass@k = 1 − C(n − c, k) / C(n, k) with c right of n (Chen et al., arXiv 2107.03374); {} where items have one sample.
    """
    n = min(len(item) for item in samples)
    if n < 2:
        return {}
    ks = [2**j for j in range(n.bit_length()) if 2**j <= n]
    return {k: sum(1 - math.comb(len(s) - sum(s), k) / math.comb(len(s), k) for s in samples) / len(samples) for k in ks}


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n independent trials (Wilson 1927): all p with |share − p| ≤ z √(p (1 − p) / n)."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
