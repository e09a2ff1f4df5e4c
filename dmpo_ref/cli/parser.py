"""The command-line arguments of `dmpo`. Nothing slow is imported here, so that `dmpo COMMAND --help` answers at once."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any, NoReturn

from dmpo_ref import __version__
from dmpo_ref.cli.terminal import complain
from dmpo_ref.config import Option, describe_options
from dmpo_ref.forecast.hardware import DEFAULT_GPU, GPUS

EXAMPLES = {
    "train": "dmpo train toy_sudoku output=runs/mine weight.baseline=uniform train.rounds=30",
    "sample": "dmpo sample toy_sudoku --item 0 --num-samples 3\n  dmpo sample runs/mine --puzzle 2341002300323214",
    "evaluate": "dmpo evaluate runs/mine evaluation.sampler.name=confidence evaluation.sampler.temperature=0\n"
    "  dmpo evaluate llada_gsm8k llada_countdown --lengths 128,256,512 --samplers confidence,wino --output results/base",
    "grade": "dmpo grade results/base/*.jsonl --output graded.jsonl\n"
    "  dmpo grade countdown_instruct_256_128_0_generations.json --explain 3",
    "table": "dmpo table results/base results/mine --figure table.png",
    "plan": "dmpo plan llada_sudoku --gpu rtx4090 model.quantize=nf4\n  dmpo plan toy_sudoku --gpu-memory 24 train.num_rollouts=64",
    "rerun": "dmpo rerun runs/toy_sudoku\n  dmpo rerun runs/toy_sudoku output=runs/again device=cpu",
    "replay": "dmpo replay runs/toy_sudoku -o replay.html\n  dmpo replay runs/toy_sudoku -o replay.html --round 0 --round 29",
    "export": "dmpo export runs/llada_sudoku merged --merge",
}
CONFIG_HELP = "YAML file, or the name of a preset such as toy_sudoku"
OR_RUN = f"{CONFIG_HELP}; or the folder of a run: its config.yaml, with the trained policy as model.path"
WITH_OWN_PARSER = {  # name → the function that reads the other words and runs the command; its line in `dmpo --help`
    "demo": ("toy.demo:main", "The method on the toy in two acts: solve rate on Sudoku, exact KL on one puzzle."),
    "pretrain-toy": ("toy.pretrain:main", "Rebuild a reference policy that ships in toy/."),
    "bench": ("toy.bench:main", "Measure this library on this machine."),
    "lm-eval": ("dmpo_ref.cli.harness:main", "The evaluation harness lm-eval, with this library's samplers and likelihoods."),
    "scoreboard": ("toy.scoreboard.command:main", "Objectives compared where the distribution they aim at is known exactly."),
}


class Parser(argparse.ArgumentParser):
    """The parser of a command: its help ends with an example and the options, an error is one line, and `key=value` may stand anywhere."""

    def __init__(self, *, example: str = "", options: str = "", **settings: Any) -> None:
        end = f"example:\n  {example}\n\n{options}".rstrip() if example else None
        super().__init__(epilog=end, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        if example:
            self.add_argument("--traceback", action="store_true", help="show where an error came from instead of one line")

    def read(self, words: list[str]) -> argparse.Namespace:
        """Parse. argparse stops collecting `key=value` at the first flag; those after it are added here."""
        args, rest = self.parse_known_args(words)
        if wrong := [word for word in rest if "=" not in word or word.startswith("-") or "overrides" not in args]:
            self.error(f"unrecognized argument {wrong[0]!r}{'; options are given as section.key=value' * ('overrides' in args)}")
        if rest:
            args.overrides = [*args.overrides, *rest]
        return args

    def error(self, message: str) -> NoReturn:
        self.exit(complain(f"{message}; see {self.prog} --help", code=2))


def build_parser() -> Parser:
    """The parser with its commands; `args.run` names the function of the one that was given."""
    parser = Parser(prog="dmpo", description="Distribution Matching Policy Optimization for masked diffusion language models.")
    parser.add_argument("--version", action="version", version=f"dmpo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_config_commands(commands)
    add_other_commands(commands)
    for name, (_, help) in WITH_OWN_PARSER.items():
        commands.add_parser(name, help=help)
    return parser


def add_command(commands: Any, module: str, name: str, help: str, options: str = "", config: str = CONFIG_HELP) -> Parser:
    """Add a command that `run_NAME` of a module runs; if `options` are given, the command takes a config, with this help, and overrides."""
    command = commands.add_parser(name, help=help.replace("%", "%%"), description=help, example=EXAMPLES[name], options=options)
    command.set_defaults(run=f"dmpo_ref.cli.{module}:run_{name}")
    if options:
        command.add_argument("config", type=as_name, metavar="CONFIG", help=config)
        command.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    return command


def add_config_commands(commands: Any) -> None:
    """Add the commands that run a policy or forecast a run."""
    options = "options of CONFIG, given there or as section.key=value:\n" + options_page(describe_options())
    add = partial(add_command, commands, "commands", options=options)

    command = add("train", "Fine-tune the policy of a config; metrics and checkpoints go to its output folder.")
    command.add_argument("--resume", action="store_true", help="continue the run in the output folder from its newest checkpoint")

    command = add("sample", "Let the policy answer one test item, or one of your own, and show the answers.", config=OR_RUN)
    chosen = command.add_mutually_exclusive_group()
    chosen.add_argument("--item", type=int, default=0, help="number of the test item, from 0 (default 0)")
    forms = "16 digits with 0 for blanks, 30,100,93=23, or a question"
    chosen.add_argument("--puzzle", type=as_text, help=f"an item given as text instead: {forms}")
    command.add_argument("--num-samples", type=int, default=1, help="answers to draw (default 1)")
    command.add_argument(
        "--draw",
        type=as_name,
        metavar="FILE",
        help="draw who was unmasked when: in the first answer (.png, .gif), or all of them as a page (.html)",
    )

    about = "Accuracy on the test items of one or more tasks, a CONFIG each, at several lengths, with several samplers."
    command = add("evaluate", about, config=OR_RUN)
    command.add_argument("--output", type=as_name, metavar="FOLDER", help="keep every answer here; an evaluation that was killed goes on")
    command.add_argument("--lengths", type=as_lengths, default=[], metavar="L,…", help="generation lengths, such as 128,256,512")
    command.add_argument("--samplers", type=as_words, default=[], metavar="S,…", help="such as confidence,confidence+prefix,wino")

    command = add("plan", "Forecast parameters, memory, forward passes and time of a round, without loading weights.")
    command.add_argument("--prompt-length", type=int, help="tokens of the longest prompt (default 256, or what the model can read)")
    command.add_argument("--gpu", default=DEFAULT_GPU, metavar="NAME", help=f"one of {', '.join(GPUS)} (default {DEFAULT_GPU})")
    command.add_argument("--flops", type=float, help="its peak of operations per second on matrices, if it is another")
    command.add_argument("--bandwidth", type=float, help="its bytes per second from memory, if they are others")
    command.add_argument("--gpu-memory", type=float, help="its memory in GB of 10^9 bytes, if it is another")
    command.add_argument("--num-processes", type=int, default=1, help="GPUs that share the prompts of a round (default 1)")
    command.add_argument("--strategy", default="ddp", help="ddp: each GPU holds all weights; fsdp2: they share them (default ddp)")


def add_other_commands(commands: Any) -> None:
    """Add the commands that take files."""
    about = "Both gradings of answers in files: of dmpo evaluate, or as d1 and DMPO publish them."
    command = add_command(commands, "grading", "grade", about)
    command.add_argument("files", type=as_name, nargs="+", metavar="FILE", help="NAME.jsonl of dmpo evaluate, or TASK_…_generations.json")
    command.add_argument("--output", type=as_name, metavar="FILE.jsonl", help="also write the grade of every answer to this new file")
    command.add_argument("--explain", type=int, action="append", default=[], metavar="INDEX", help="explain this item of each file, from 0")

    command = add_command(commands, "grading", "table", "Runs side by side with the published numbers, with 95 % intervals.")
    command.add_argument(
        "runs",
        type=as_name,
        nargs="*",
        default=[],
        metavar="RUN",
        help="folder of dmpo evaluate --output, or with files of generations",
    )
    command.add_argument("--markdown", action="store_true", help="a Markdown table instead of text")
    command.add_argument("--figure", type=as_name, metavar="FILE", help="also draw it as bars, .png or .svg")

    command = add_command(
        commands, "commands", "rerun", "Repeat a run into a new folder and compare the metrics; exit code 1 if they differ."
    )
    command.add_argument("run_folder", type=as_name, metavar="FOLDER", help="folder of a run; the new one is FOLDER_rerun, or output=…")
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value")

    about = "A page that replays the answers which a run has logged, token by token; for any browser, without a server."
    command = add_command(commands, "replay", "replay", about)
    command.add_argument("run_folder", type=as_name, metavar="RUN", help="folder of a run, or its rollouts.jsonl")
    command.add_argument("-o", "--output", type=as_name, required=True, metavar="FILE.html", help="the page; one that is there is replaced")
    command.add_argument(
        "--round",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="this round, from 0; else the first, the last, and three between",
    )

    about = "Write the policy of a run as a plain checkpoint, or its adapters as plain PEFT adapters."
    command = add_command(commands, "commands", "export", about)
    command.add_argument("source", type=as_name, metavar="RUN", help="folder of a run or of one of its checkpoints")
    command.add_argument("target", type=as_name, metavar="OUTPUT", help="folder to write; must not exist")
    command.add_argument("--merge", action="store_true", help="add the adapters to the weights of their base")


def options_page(options: dict[str, Option]) -> str:
    """Every option with its default, symbol and description, one a line."""
    lines = []
    for key, option in options.items():
        kind, default, help, symbol = option.kind, option.default, option.help, option.symbol
        shown = "required" if default == "???" else "null" if default is None else default
        if kind.startswith("one of"):
            shown = f"{shown}; {kind}".replace("'", "")
        lines.append(f"  {key} ({shown})  {help}{f' [{symbol}]' if symbol else ''}")
    return "\n".join(lines)


def as_name(text: str) -> str:
    """A file or folder, not "" as from `--output "$UNSET"`; `~`, which a shell leaves alone in `--output=~/x`, is the home folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; is a variable of the shell not set?")
    return os.path.expanduser(text)


def as_text(text: str) -> str:
    """An item given as text."""
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps such bytes as half characters
        raise argparse.ArgumentTypeError("the text is not UTF-8") from None
    return text


def as_words(text: str) -> list[str]:
    """`a,b` as a list, which is not empty."""
    if not (words := [word.strip() for word in text.split(",") if word.strip()]):
        raise argparse.ArgumentTypeError(f"{text!r} is an empty list; leave the option out, or name at least one")
    return words


def as_lengths(text: str) -> list[int]:
    """`128,256` as numbers above 0."""
    if not all(word.isdecimal() and int(word) > 0 for word in as_words(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of lengths such as 128,256")
    return [int(word) for word in as_words(text)]
