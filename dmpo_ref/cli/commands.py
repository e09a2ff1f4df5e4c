"""What each command of `dmpo` does: it loads what a config names, calls the library, prints. The parser is in `cli.py`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from dmpo_ref.presets.loading import load_config, load_options


def run_train(args: argparse.Namespace) -> None:
    """`dmpo train`."""
    from dmpo_ref.train import train

    config = load_config(args.config, *args.overrides)
    trained = train(config, resume=args.resume)
    if not trained.is_main:
        return
    if trained.metrics:
        last = trained.metrics[-1]
        print(f"reward {last['reward']:.3f} in the last round, test accuracy {last['evaluation/accuracy']:.3f}")
    else:
        print("every round was done already")
    print(f"policy, metrics and config in {trained.output}")


def run_sample(args: argparse.Namespace) -> None:
    """`dmpo sample`."""
    from dmpo_ref.masking import stream
    from dmpo_ref.models.loading import load_policy
    from dmpo_ref.plots.traces import check_ending, save_trace, trace
    from dmpo_ref.runtime.processes import build_accelerator
    from dmpo_ref.samplers.sampling import sample
    from dmpo_ref.tasks import build_task
    from dmpo_ref.tasks.encoding import answer_texts, encode, end_ids

    config = load_config(args.config, *args.overrides)
    if args.num_samples < 1:
        raise ValueError(f"--num-samples {args.num_samples}: must be at least 1")
    if args.draw:
        check_ending(Path(args.draw))
    task = build_task(config.task)
    policy, tokenizer = load_policy(config.model, build_accelerator(config).device)
    vocabulary = allowed_vocabulary(config, task, policy, tokenizer)
    if args.puzzle is not None:
        item = task.parse(args.puzzle)
    else:
        items = task.load(config.task.test)
        if not 0 <= args.item < len(items):
            raise ValueError(f"--item {args.item}: {config.task.test} has the items 0 to {len(items) - 1}")
        item = items[args.item]
    prompts = encode(tokenizer, task, [item], config.sampler.response_length).to(policy.device)
    rollout = sample(
        policy,
        prompts,
        config.sampler,
        vocabulary,
        num_rollouts=args.num_samples,
        generators=[stream(config.seed, "sample")],
        end_tokens=end_ids(tokenizer),
    )
    print(task.show(item))
    for n, text in enumerate(answer_texts(tokenizer, rollout)[0]):
        log_prob = "" if rollout.path_log_prob is None else f", log-probability along its order {rollout.path_log_prob[0, n]:.3f} nats"
        print(f"\nanswer {n}: {'right' if task.grade(item, text).correct else 'wrong'}{log_prob}\n{task.show(item, text)}")
    if args.draw:
        pieces, step = trace(tokenizer, rollout)
        save_trace(Path(args.draw), pieces, step, board=config.task.name == "sudoku" and config.task.generate != "chat")


def run_evaluate(args: argparse.Namespace) -> None:
    """`dmpo evaluate`."""
    from dmpo_ref.evaluation.results import grid
    from dmpo_ref.runtime.processes import build_accelerator

    sources = [word for word in args.words if "=" not in word]
    overrides = [word for word in args.words if "=" in word] + args.overrides
    if not sources:
        raise ValueError("evaluate needs a CONFIG: a YAML file, or the name of a preset such as toy_sudoku")
    runs = {}
    for source in sources:
        for name, chosen in grid(load_config(source, *overrides), args.lengths, args.samplers):
            if name in runs:
                raise ValueError(f"{name} twice: give each task, length and sampler once")
            runs[name] = load_config(source, *overrides, *chosen)
    accelerator = build_accelerator(next(iter(runs.values())))
    if args.output is None and accelerator.num_processes > 1:
        raise ValueError("several processes need a folder that they share: give --output FOLDER")
    if args.output is not None and Path(args.output).is_file():
        raise ValueError(f"--output {args.output} is a file; a folder is needed")
    with tempfile.TemporaryDirectory() as temporary:
        paths = {Path(args.output or temporary) / f"{name}.jsonl": config for name, config in runs.items()}
        answer_all(paths, accelerator)
        if accelerator.is_main_process:
            report_evaluation(paths)


def answer_all(paths: dict, accelerator) -> None:
    """Answer the test items of each config into its file; a policy is loaded once for all that ask it in turn."""
    from dmpo_ref.evaluation.results import evaluate_to_file
    from dmpo_ref.models.loading import load_policy

    share = {"process": accelerator.process_index, "num_processes": accelerator.num_processes, "wait": accelerator.wait_for_everyone}
    asked = {path: check_evaluation(config) for path, config in paths.items()}
    loaded = policy = tokenizer = None
    for path, config in paths.items():
        task, items = asked[path]
        if loaded != config.model:
            policy = tokenizer = None  # not two of them at once
            policy, tokenizer = load_policy(config.model, accelerator.device)
            loaded = config.model
        evaluate_to_file(policy, tokenizer, task, items, config, allowed_vocabulary(config, task, policy, tokenizer), path, **share)


def check_evaluation(config) -> tuple:
    """Task and items of a config, whose sampler can fill the answers; before anything is computed.

    Raises:
        FileNotFoundError, ValueError: no such data, or a length or a sampler that cannot be.
    """
    from dmpo_ref.models.loading import base_of, locate, read_config
    from dmpo_ref.samplers.checks import check_sampling
    from dmpo_ref.tasks import build_task
    from dmpo_ref.tasks.base import BLANK

    task, sampler = build_task(config.task), config.evaluation.sampler
    items = task.load(config.task.test)[: config.evaluation.num_items]
    room = read_config(base_of(locate(config.model.path)) or config.model.path).max_sequence_length
    if (sampler.response_length or 0) >= room:
        raise ValueError(f"a generation length of {sampler.response_length}: the model reads at most {room} tokens, the prompt included")
    templates = [task.template(item) for item in items]
    lengths = [sampler.response_length or 1 if template is None else template.count(BLANK) for template in templates]
    check_sampling(sampler, torch.tensor(lengths))
    return task, items


def report_evaluation(paths: dict) -> None:
    """Accuracies by grading and by kind of item, what an answer cost, and which items were never asked.

    Args:
        paths: file → config. Of a file that holds more items than its config asks for, the first of them are counted.
    """
    from dataclasses import replace

    from dmpo_ref.evaluation.gradings import describe_kinds, format_scores, grade_files, summarise
    from dmpo_ref.evaluation.results import describe_cost

    found, problems = grade_files(paths)
    limits = {path: config.evaluation.num_items for path, config in paths.items()}
    # One folder holds them all, and may be a temporary one: its name says nothing.
    items = [replace(item, run=item.file.stem) for item in found if limits[item.file] is None or item.index < limits[item.file]]
    print(format_scores(summarise(items)))
    for path, limit in limits.items():
        counted = [item for item in items if item.file == path]
        print(f"\n{describe_cost(path)}\n{describe_kinds(counted)}")
        if len(counted) < sum(item.file == path for item in found):
            print(f"  the first {limit} items are counted; the file holds more, and the cost is that of all")
    report_problems(problems)


def report_problems(problems: list[str]) -> None:
    """A line each on stderr for all but the last, which becomes the error.

    Raises:
        ValueError: there is any.
    """
    for problem in problems[:-1]:
        complain(problem, code=2)
    if problems:
        raise ValueError(problems[-1])


def run_grade(args: argparse.Namespace) -> None:
    """`dmpo grade`."""
    from dmpo_ref.evaluation.gradings import as_result, describe_item, format_scores, grade_files, summarise
    from dmpo_ref.runtime.files import write_atomically

    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise ValueError(f"--output {args.output}: there is no folder {Path(args.output).parent}")
    if args.output and (Path(args.output).exists() or Path(args.output).suffix != ".jsonl"):
        raise ValueError(f"--output {args.output}: give the name of a .jsonl file that is not there yet")
    items, problems = grade_files(args.files)
    if not items and not problems:
        problems.append("these files hold no answers; give NAME.jsonl of dmpo evaluate, or TASK_…_generations.json")
    if items:
        print(format_scores(summarise(items)))
    for item in items:
        if item.index in args.explain:
            print(f"\n{describe_item(item)}")
    if missing := sorted(set(args.explain) - {item.index for item in items}):
        problems.append(f"--explain {missing[0]}: no file holds an item of that index")
    if args.output:
        write_atomically(Path(args.output), "".join(json.dumps(as_result(item)) + "\n" for item in items))
    report_problems(problems)


def run_table(args: argparse.Namespace) -> None:
    """`dmpo table`."""
    from dmpo_ref.evaluation.table import PUBLISHED, as_columns, draw_table, format_table, read_runs

    if args.figure and Path(args.figure).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--figure {args.figure}: the ending must be .png, .svg or .pdf")
    scores, problems = read_runs(args.runs)
    columns = [*PUBLISHED, *as_columns(scores)]
    print(format_table(columns, markdown=args.markdown))
    if args.figure:
        draw_table(columns, Path(args.figure))
    report_problems(problems)


def allowed_vocabulary(config, task, policy, tokenizer):
    """What the policy may generate for this task."""
    from dmpo_ref.likelihood import build_vocabulary

    full = config.model.vocabulary == "full"
    return build_vocabulary(tokenizer, policy.config.embedding_size, alphabet=task.alphabet, full=full)


def run_plan(args: argparse.Namespace) -> None:
    """`dmpo plan`."""
    from dmpo_ref.forecast.plan import format_plan, make_plan

    options = {name: getattr(args, name) for name in ("flops", "bandwidth", "num_processes", "strategy")}
    plan = make_plan(load_config(args.config, *args.overrides), prompt_length=args.prompt_length, **options)
    print(format_plan(plan, args.gpu_memory))


def run_export(args: argparse.Namespace) -> None:
    """`dmpo export`."""
    from dmpo_ref.models.loading import export

    kind = export(Path(args.source), Path(args.target), merge=args.merge)
    print(f"{kind} in {args.target}")


def run_bench(args: argparse.Namespace) -> None:
    """`dmpo bench`."""
    from dmpo_ref.forecast.bench import bench_grading, bench_loss, bench_samplers

    print({"loss": bench_loss, "samplers": bench_samplers, "grading": bench_grading}[args.name]())


def run_demo(args: argparse.Namespace) -> None:
    """`dmpo demo`."""
    from toy.demo import run

    run(Path(args.output), seed=args.seed)


def run_pretrain(args: argparse.Namespace) -> None:
    """`dmpo pretrain-toy`."""
    from toy.pretrain import PretrainConfig, pretrain

    config = load_options(PretrainConfig, *args.overrides)
    pretrain(config)
    print(f"checkpoint in {config.output}; look at it with: dmpo evaluate toy_sudoku model.path={config.output}")


def complain(message: str, *, code: int) -> int:
    """One line on stderr."""
    print(f"dmpo: {message}", file=sys.stderr)
    return code
