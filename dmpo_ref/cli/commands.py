"""The commands that need a policy or its sizes: each loads what a config names, calls the library, and prints."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dmpo_ref.cli.grading import report_problems
from dmpo_ref.cli.terminal import complain
from dmpo_ref.config import Config, ModelConfig
from dmpo_ref.evaluation.answering import with_newest
from dmpo_ref.evaluation.gradings import grade_files, summarise
from dmpo_ref.evaluation.report import describe_kinds, format_scores
from dmpo_ref.evaluation.results import describe_cost, evaluate_to_file, grid
from dmpo_ref.forecast.hardware import choose_gpu
from dmpo_ref.forecast.page import format_plan, format_variants
from dmpo_ref.forecast.plan import make_plan
from dmpo_ref.forecast.variants import plan_variants
from dmpo_ref.masking import stream
from dmpo_ref.models.fingerprint import fingerprint_parts
from dmpo_ref.models.loading import base_of, latest_checkpoint, load_policy, number_of, read_config
from dmpo_ref.plots.replay import group_of, save_replay
from dmpo_ref.presets.checks import idle_options, is_read
from dmpo_ref.presets.loading import load_config, preset_names
from dmpo_ref.runtime.checkpoint import FREE_ON_RESUME
from dmpo_ref.runtime.export import export
from dmpo_ref.runtime.files import claim, read_entries
from dmpo_ref.runtime.logs import first_difference
from dmpo_ref.runtime.origin import changed_versions, given_in, read_run
from dmpo_ref.runtime.processes import build_accelerator, is_first_process
from dmpo_ref.samplers import sample
from dmpo_ref.samplers.checks import check_lengths, check_memory
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.base import BLANK
from dmpo_ref.tasks.encoding import allowed_vocabulary, answer_texts, encode, end_ids, trajectory
from dmpo_ref.train import train

# Options that a command does not read, with what it reads instead.
IGNORED = {
    "evaluate": {"sampler": "evaluation.sampler"},
    "sample": {"evaluation.sampler": "sampler", "evaluation.num_samples": "--num-samples"},
}


def run_train(args: argparse.Namespace) -> None:
    """`dmpo train`."""
    config = load_config(args.config, *args.overrides)
    beside = Path(args.config).parent
    if args.resume and Path(args.config).is_file() and latest_checkpoint(beside) and not latest_checkpoint(Path(config.output)):
        problem = f"output={config.output} holds no checkpoint to resume from, but the folder of {args.config} does"
        raise FileNotFoundError(f"{problem}; if the run was moved there, give output={beside}")
    was_done = args.resume and is_finished(config)
    trained = train(config, resume=args.resume)
    if not trained.is_main:
        return
    if was_done:
        print(f"every round was done already; nothing was run. To evaluate its policy: dmpo evaluate {trained.output}")
    else:
        last = trained.metrics[-1]
        print(f"reward {last['reward']:.3f} in the last round, test accuracy {last['evaluation/accuracy']:.3f}")
    print(f"policy, metrics and config in {trained.output}")


def is_finished(config: Config) -> bool:
    """Whether the output folder has a checkpoint of the last round."""
    newest = latest_checkpoint(Path(config.output))
    return newest is not None and number_of(newest) >= config.train.rounds


def run_rerun(args: argparse.Namespace) -> int:
    """`dmpo rerun`: 0 if every metric is the same bit for bit, else 1."""
    folder = Path(args.run_folder)
    then, starts = read_entries(folder / "metrics.jsonl", before_round=sys.maxsize), read_run(folder).get("starts", [])
    if not then or not (folder / "config.yaml").is_file() or not all({"reward", "loss"} <= entry.keys() for entry in then):
        needed = "config.yaml and the lines of metrics.jsonl, with reward and loss, are needed"
        raise FileNotFoundError(f"{folder} holds no run that could be repeated: {needed}")
    if given := given_in(starts):
        raise ValueError(f"{folder} was run from Python with {given[0]}=, which no file holds; repeat it there")
    config = load_config(folder / "config.yaml", *args.overrides)
    if not any(word.startswith("output=") for word in args.overrides):
        own = folder.resolve() if folder.name in ("", "..") else folder  # `.` and `..` are no names to add to
        config = replace(config, output=f"{own}_rerun")
    if Path(config.output).resolve() == folder.resolve():
        raise ValueError(f"output={config.output} is the run itself, which is to be compared; choose another output")
    if is_finished(config):
        raise ValueError(f"{config.output} holds a finished run, so nothing would be run; remove it, or choose another output")
    trained = train(config, resume=latest_checkpoint(Path(config.output)) is not None)
    difference = first_difference(then, trained.metrics)
    if difference is None:
        steps = min(len(then), len(trained.metrics))
        print(f"equal: every metric of {steps} step{'s' * (steps != 1)}, bit for bit; the new run is in {trained.output}")
        return 0
    changed = [word for word in args.overrides if not word.partition("=")[0].endswith(FREE_ON_RESUME)]
    why = [f"a difference is expected, because of what was given here: {' '.join(changed)}"] if changed else []
    print("; ".join([f"different at {difference}", *why, *changed_versions(starts), f"the new run is in {trained.output}"]))
    return 1


def run_sample(args: argparse.Namespace) -> None:
    """`dmpo sample`."""
    source, overrides = policy_of_run("sample", args.config, args.overrides)
    config = load_config(source, *overrides, for_sampling=True)
    say_idle("sampler.", [config])
    if args.num_samples < 1:
        raise ValueError(f"--num-samples {args.num_samples}: must be at least 1")
    as_page = args.draw is not None and args.draw.endswith(".html")
    if args.draw and not as_page:
        from dmpo_ref.plots.traces import check_ending, save_trace, trace  # importing matplotlib takes seconds; only this option needs it

        check_ending(Path(args.draw), ".html")
    task = build_task(config.task)
    if args.puzzle is not None:
        item = task.parse(args.puzzle)
    else:
        items = task.load(config.task.test)
        if not 0 <= args.item < len(items):
            raise ValueError(f"--item {args.item}: {config.task.test} has the items 0 to {len(items) - 1}")
        item = items[args.item]
    policy, tokenizer = load_policy(config.model, build_accelerator(config).device)
    prompts = encode(tokenizer, task, [item], config.sampler.response_length)
    check_memory(config.sampler, args.num_samples, int(prompts.response_mask.sum()), prompts.tokens.shape[1], "--num-samples")
    rollout = sample(
        policy,
        prompts.to(policy.device),
        config.sampler,
        allowed_vocabulary(config.model, task, policy, tokenizer),
        num_rollouts=args.num_samples,
        generators=[stream(config.seed, "sample")],
        end_tokens=end_ids(tokenizer),
    )
    print(task.show(item))
    for n, text in enumerate(answer_texts(tokenizer, rollout)[0]):
        log_prob = "" if rollout.path_log_prob is None else f", log-probability along its order {rollout.path_log_prob[0, n]:.3f} nats"
        print(f"\nanswer {n}: {'right' if task.grade(item, text).correct else 'wrong'}{log_prob}\n{task.show(item, text)}")
    if as_page:
        answers = [trajectory(tokenizer, rollout, sample=n) for n in range(args.num_samples)]
        group = group_of("", task.show(item), answers, [f"answer {n}" for n in range(args.num_samples)])
        title = f"{args.num_samples} answer{'s' * (args.num_samples != 1)} of {args.config}"
        save_replay(Path(args.draw), {"title": title, "groups": [group]})
    elif args.draw:
        save_trace(Path(args.draw), *trace(tokenizer, rollout), board=config.task.name == "sudoku" and config.task.generate != "chat")


def policy_of_run(command: str, source: str, overrides: list[str]) -> tuple[str | Path, list[str]]:
    """Config and overrides for a command that asks a policy: the folder of a run means its config.yaml, with the trained policy as
    `model.path`. The config.yaml itself names the policy that the run started from: then a line on stderr says so.

    Raises:
        ValueError: an override that the command would ignore. Words that are meant for several commands may hold it beside the right one.
    """
    keys = [word.partition("=")[0] for word in overrides]
    for key in keys:
        for unused, used in IGNORED[command].items():
            right = f"{used}{key.removeprefix(unused)}"
            if (key == unused or key.startswith(f"{unused}.")) and right not in keys:
                raise ValueError(f"{key}: dmpo {command} does not use it; give {right}")
    folder = Path(source)
    if source not in preset_names() and (folder / "config.yaml").is_file():
        return folder / "config.yaml", [f"model.path={folder}", *overrides]
    if folder.is_file() and latest_checkpoint(folder.parent) and not {"model", "model.path"} & set(keys) and is_first_process():
        started = f"{source} names the policy that its run started from, and that policy answers"
        complain(f"{started}; for the trained one: dmpo {command} {folder.parent}", code=0)
    return source, overrides


def run_evaluate(args: argparse.Namespace) -> None:
    """`dmpo evaluate`."""
    words = [args.config, *args.overrides]
    sources = [word for word in words if "=" not in word or os.path.exists(word)]  # a path may have "=" in it
    overrides = [word for word in words if word not in sources]
    if not sources:
        raise ValueError("evaluate needs a CONFIG: a YAML file, the name of a preset such as toy_sudoku, or the folder of a run")
    runs: dict[str, Config] = {}
    for source in sources:
        file, given = policy_of_run("evaluate", source, overrides)
        for name, chosen in grid(load_config(file, *given), args.lengths, args.samplers):
            if name in runs:
                raise ValueError(f"{name} twice: give each task, length and sampler once")
            runs[name] = load_config(file, *given, *chosen)
    accelerator = build_accelerator(next(iter(runs.values())))
    if args.output is None and accelerator.num_processes > 1:
        raise ValueError("several processes need a folder that they share: give --output FOLDER")
    if accelerator.is_main_process:
        say_idle("evaluation.sampler.", list(runs.values()))
    writes = args.output is not None and accelerator.is_main_process
    with tempfile.TemporaryDirectory() as temporary, claim(Path(args.output), option="--output ") if writes else nullcontext():
        configs = {Path(args.output or temporary) / f"{name}.jsonl": config for name, config in runs.items()}
        questions = {path: check_evaluation(config) for path, config in configs.items()}  # all of them, before the first answer
        for model, paths in groupby(configs, key=lambda path: configs[path].model):  # a policy is loaded once for all that ask it in turn
            answer_all(model, {path: (configs[path], *questions[path]) for path in paths}, accelerator)
        if accelerator.is_main_process:
            report_evaluation({path: len(items) for path, (_, items) in questions.items()})


def say_idle(section: str, configs: list[Config]) -> None:
    """One line on stderr for each option of a section that a config sets and none reads."""
    idle = [dict(idle_options(config)) for config in configs]
    for key, message in {key: message for found in idle for key, message in found.items() if key.startswith(section)}.items():
        if not any(is_read(config, key) for config in configs):
            complain(f"warning: {message}", code=0)


def check_evaluation(config: Config) -> tuple[Any, list[Any]]:
    """Task and items of a config; its sampler must be able to fill the answers.

    Raises:
        FileNotFoundError, ValueError: no such data, or a length or a sampler that does not fit.
    """
    task, sampler = build_task(config.task), config.evaluation.sampler
    items = task.load(config.task.test)[: config.evaluation.num_items]
    longest = with_newest(config.model.path, lambda folder: read_config(base_of(folder) or folder).max_sequence_length)
    if (sampler.response_length or 0) >= longest:
        raise ValueError(f"a generation length of {sampler.response_length}: the model reads at most {longest} tokens, the prompt included")
    templates = [task.template(item) for item in items]
    lengths = [sampler.response_length or 1 if template is None else template.count(BLANK) for template in templates]
    check_lengths(sampler, torch.tensor(lengths), "evaluation.sampler")
    return task, items


def answer_all(model: ModelConfig, questions: dict[Path, tuple[Config, Any, list[Any]]], accelerator: Accelerator) -> None:
    """Let one policy, whose folder is printed, answer the items of several results files: file → (config, task, items)."""

    def load(folder: str) -> tuple[Any, Any, dict[str, str], str]:
        return *load_policy(replace(model, path=folder), accelerator.device), fingerprint_parts(folder), folder

    policy, tokenizer, parts, folder = with_newest(model.path, load)
    if accelerator.is_main_process:
        print(f"policy of {', '.join(path.stem for path in questions)}: {min(folder, os.path.relpath(folder), key=len)}")
    share: dict[str, Any] = {"parts": parts, "process": accelerator.process_index, "num_processes": accelerator.num_processes}
    for path, (config, task, items) in questions.items():
        vocabulary = allowed_vocabulary(model, task, policy, tokenizer)
        evaluate_to_file(policy, tokenizer, task, items, config, vocabulary, path, wait=accelerator.wait_for_everyone, **share)


def report_evaluation(limits: dict[Path, int]) -> None:
    """Print accuracies by grading and by kind of item, the cost of an answer, and which items were never asked.

    Args:
        limits: file → how many of its items count, the first ones. It may hold more, from an earlier evaluation.
    """
    found, problems = grade_files(limits)
    # All are in one folder, which may be a temporary one, so its name is left out.
    items = [replace(item, run=item.file.stem) for item in found if item.index < limits[item.file]]
    print(format_scores(summarise(items)))
    for path, limit in limits.items():
        counted = [item for item in items if item.file == path]
        print(f"\n{describe_cost(path)}\n{describe_kinds(counted)}")
        if len(counted) < sum(item.file == path for item in found):
            first = "item is" if limit == 1 else f"{limit} items are"
            print(f"  the first {first} counted; the file holds more, and the cost is that of all")
    report_problems(problems)


def run_plan(args: argparse.Namespace) -> None:
    """`dmpo plan`."""
    gpu = choose_gpu(args.gpu, flops=args.flops, bandwidth=args.bandwidth, gpu_memory=args.gpu_memory)
    options = {"gpu": gpu, "prompt_length": args.prompt_length, "num_processes": args.num_processes, "strategy": args.strategy}
    config = load_config(args.config, *args.overrides)
    plan = make_plan(config, **options)
    print(f"{format_plan(plan)}\n\n{format_variants(plan, plan_variants(config, **options))}")


def run_export(args: argparse.Namespace) -> None:
    """`dmpo export`."""
    kind = export(Path(args.source), Path(args.target), merge=args.merge)
    print(f"{kind} in {args.target}")
