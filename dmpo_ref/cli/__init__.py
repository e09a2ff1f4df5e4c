"""The command line, `dmpo`: arguments are read before the imports that a command needs, because torch and transformers take seconds."""

from __future__ import annotations

import os
import sys
from pkgutil import resolve_name

from dmpo_ref.cli.failures import describe_failure, stopping_at_once
from dmpo_ref.cli.parser import WITH_OWN_PARSER, build_parser
from dmpo_ref.cli.terminal import complain, neutral_output
from dmpo_ref.runtime.interrupt import Interrupted

# How to continue what was stopped. The other commands leave nothing to continue.
CONTINUE = {
    "train": "the same command with --resume",
    "rerun": "the same command",
    "evaluate": "the same command",
    "demo": "the same command",
    "scoreboard": "the same command",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 1 where `rerun` finds a difference, 2 for something the user can fix (one line on
    stderr), 130 after Ctrl-C, 141 if the reader of its output has closed the pipe."""
    words = sys.argv[1:] if arguments is None else arguments
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115  # closed by the shell
    name = words[0] if words else ""
    try:
        with neutral_output():
            return run(name, words)
    except Interrupted as stopped:
        return complain(f"{stopped}; {CONTINUE[name]} goes on", code=130)
    except KeyboardInterrupt:
        writes = name != "evaluate" or any(word.startswith("--output") for word in words)
        rest = f"; what was written stands, and {CONTINUE[name]} goes on" if name in CONTINUE and writes else ""
        return complain(f"stopped{rest}", code=130)
    except BrokenPipeError:
        return 141  # as for any program that `head` has cut short
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        message = describe_failure(error)
        if message is None or "--traceback" in words:
            raise
        return complain(message, code=2)


def run(name: str, words: list[str]) -> int:
    """Read the arguments and run the command; returns its exit code."""
    if name in WITH_OWN_PARSER:
        with stopping_at_once():
            command = resolve_name(WITH_OWN_PARSER[name][0])
        command(words[1:])
        return 0
    # Its lines about every retry without a network; the error that follows says what was wrong.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    args = build_parser().read(words)
    with stopping_at_once():
        command = resolve_name(args.run)
    return command(args) or 0
