"""The command line: thin commands over the library. `dmpo COMMAND --help` shows an example of each."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from dmpo_ref.cli.commands import (
    complain,
    run_bench,
    run_demo,
    run_evaluate,
    run_export,
    run_grade,
    run_plan,
    run_pretrain,
    run_sample,
    run_table,
    run_train,
)
from dmpo_ref.config import describe_options
from dmpo_ref.forecast.hardware import BANDWIDTH, FLOPS, STRATEGIES

EXAMPLES = {
    "train": "dmpo train toy_sudoku output=runs/mine weight.baseline=uniform train.rounds=30",
    "sample": "dmpo sample toy_sudoku --item 0 --num-samples 3\n  dmpo sample toy_sudoku --puzzle 2341002300323214 model.path=runs/mine",
    "evaluate": "dmpo evaluate toy_sudoku model.path=runs/mine evaluation.sampler.name=confidence evaluation.sampler.temperature=0\n"
    "  dmpo evaluate llada_gsm8k llada_countdown --lengths 128,256,512 --samplers confidence,wino --output results/base",
    "grade": "dmpo grade results/base/*.jsonl --output graded.jsonl\n"
    "  dmpo grade countdown_instruct_256_128_0_generations.json --explain 3",
    "table": "dmpo table results/base results/mine --figure table.png",
    "plan": "dmpo plan toy_sudoku --gpu-memory 24 train.num_rollouts=64",
    "export": "dmpo export runs/llada_sudoku merged --merge",
    "bench": "dmpo bench samplers",
    "demo": "dmpo demo --output runs/demo",
    "pretrain-toy": "dmpo pretrain-toy output=runs/pretrain_toy correct_share=0.2",
}


class Parser(argparse.ArgumentParser):
    """Mistakes in one line, like all others."""

    def error(self, message: str) -> None:
        self.exit(complain(f"{message}; see {self.prog} --help", code=2))


def build_parser() -> argparse.ArgumentParser:
    """The parser with its commands."""
    parser = Parser(prog="dmpo", description="Distribution Matching Policy Optimization for masked diffusion language models.")
    parser.add_argument("--version", action="version", version=f"dmpo {version('dmpo-ref')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run, help: str, *, config: bool) -> argparse.ArgumentParser:
        epilog = f"example:\n  {EXAMPLES[name]}"
        if config:
            epilog += "\n\noptions of CONFIG, given there or as section.key=value:\n" + options_page()
        command = commands.add_parser(
            name,
            help=help.replace("%", "%%"),
            description=help,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == "evaluate":  # several configs, then overrides; told apart by their "="
            command.add_argument("words", nargs="+", metavar="CONFIG", help="YAML files or presets, one for each task; then key=value")
            command.set_defaults(overrides=[])
        elif config:
            command.add_argument("config", metavar="CONFIG", help="YAML file, or the name of a preset such as toy_sudoku")
        command.add_argument("--traceback", action="store_true", help="show where an error came from instead of one line")
        command.set_defaults(run=run)
        return command

    command = add("train", run_train, "Fine-tune the policy of a config; metrics and checkpoints go to its output folder.", config=True)
    command.add_argument("--resume", action="store_true", help="continue the run in the output folder from its newest checkpoint")
    command.add_argument("overrides", nargs="*", metavar="key=value")

    command = add("sample", run_sample, "Let the policy answer one test item, or one of your own, and show the answers.", config=True)
    command.add_argument("--item", type=int, default=0, help="number of the test item, from 0 (default 0)")
    command.add_argument("--puzzle", help="an item given as text instead: 16 digits with 0 for blanks, 30,100,93=23, or a question")
    command.add_argument("--num-samples", type=int, default=1, help="answers to draw (default 1)")
    command.add_argument("--draw", metavar="FILE", help="draw who was unmasked when, in the first answer: .png, or .gif to see it move")
    command.add_argument("overrides", nargs="*", metavar="key=value")

    command = add("evaluate", run_evaluate, "Accuracy on the test items of tasks, at several lengths, with several samplers.", config=True)
    command.add_argument("--output", metavar="FOLDER", help="keep every answer here; an evaluation that was killed goes on")
    command.add_argument("--lengths", type=as_lengths, default=[], metavar="L,…", help="generation lengths, such as 128,256,512")
    command.add_argument("--samplers", type=as_words, default=[], metavar="S,…", help="such as confidence,confidence+prefix,wino")

    command = add("grade", run_grade, "Both gradings of answers in files: of dmpo evaluate, or as d1 and DMPO publish them.", config=False)
    command.add_argument("files", nargs="+", metavar="FILE", help="NAME.jsonl of dmpo evaluate, or TASK_…_generations.json")
    command.add_argument("--output", metavar="FILE.jsonl", help="also write the grade of every answer to this new file")
    command.add_argument("--explain", type=int, action="append", default=[], metavar="INDEX", help="explain this item of each file, from 0")

    command = add("table", run_table, "Runs side by side with the published numbers, with 95 % intervals.", config=False)
    command.add_argument("runs", nargs="*", metavar="RUN", help="folder that dmpo evaluate --output wrote, or with files of generations")
    command.add_argument("--markdown", action="store_true", help="a Markdown table instead of text")
    command.add_argument("--figure", metavar="FILE", help="also draw it as bars, .png or .svg")

    command = add(
        "plan", run_plan, "Forecast parameters, memory, forward passes and time of a round, without loading weights.", config=True
    )
    command.add_argument("--prompt-length", type=int, help="tokens of the longest prompt (default 256, or what the model has room for)")
    command.add_argument("--flops", type=float, default=FLOPS, help=f"bf16 operations per second of one GPU (default {FLOPS:g}, an H100)")
    command.add_argument("--bandwidth", type=float, default=BANDWIDTH, help=f"bytes per second from its memory (default {BANDWIDTH:g})")
    command.add_argument("--gpu-memory", type=float, default=80.0, help="memory of one GPU in GB of 10^9 bytes (default 80)")
    command.add_argument("--num-processes", type=int, default=1, help="GPUs that share the prompts of a round (default 1)")
    command.add_argument("--strategy", choices=STRATEGIES, default="ddp", help="what else they share (default ddp)")
    command.add_argument("overrides", nargs="*", metavar="key=value")

    command = add(
        "export", run_export, "Write the policy of a run as a plain checkpoint, or its adapters as plain PEFT adapters.", config=False
    )
    command.add_argument("source", metavar="RUN", help="folder of a run or of one of its checkpoints")
    command.add_argument("target", metavar="OUTPUT", help="folder to write; must not exist")
    command.add_argument("--merge", action="store_true", help="add the adapters to the weights of their base")

    command = add("bench", run_bench, "Measure this library on this machine.", config=False)
    what = "loss: a step with LLaDA's vocabulary, chunked against all logits; samplers: a table; grading: time for one answer"
    command.add_argument("name", choices=["loss", "samplers", "grading"], help=what)

    command = add("demo", run_demo, "The method on the toy in two acts: solve rate on Sudoku, exact KL on one puzzle.", config=False)
    command.add_argument("--output", default="runs/demo", help="folder of the results (default runs/demo); a finished one is shown again")
    command.add_argument("--seed", type=int, default=0, help="key of every random stream (default 0)")

    command = add("pretrain-toy", run_pretrain, "Rebuild the tiny reference policy that ships in toy/checkpoint.", config=False)
    command.epilog += "\n\noptions, given as key=value:\n" + pretrain_options_page()
    command.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def as_words(text: str) -> list[str]:
    """`a,b` as a list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def as_lengths(text: str) -> list[int]:
    """`128,256` as numbers above 0."""
    if not all(word.isdecimal() and int(word) > 0 for word in as_words(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of lengths such as 128,256")
    return [int(word) for word in as_words(text)]


def options_page(options: dict | None = None) -> str:
    """Every option with its default, symbol and description, one a line."""
    lines = []
    for key, option in (options or describe_options()).items():
        kind, default, help, symbol = option.kind, option.default, option.help, option.symbol
        shown = "required" if default == "???" else "null" if default is None else default
        if kind.startswith("one of"):
            shown = f"{shown}; {kind}".replace("'", "")
        lines.append(f"  {key} ({shown})  {help}{f' [{symbol}]' if symbol else ''}")
    return "\n".join(lines)


def pretrain_options_page() -> str:
    """The options of `pretrain-toy`, read from its dataclass."""
    from toy.pretrain import PretrainConfig

    return options_page(describe_options(PretrainConfig))
