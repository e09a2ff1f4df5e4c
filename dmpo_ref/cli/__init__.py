"""The command line, `dmpo`: the words are read before what a command needs is imported, because torch and transformers take seconds."""

from __future__ import annotations

import sys
from pkgutil import resolve_name

from dmpo_ref.cli.parser import TOY, build_parser, complain
from dmpo_ref.runtime.interrupt import Interrupted

# How to continue what was stopped. The other commands leave nothing to continue.
CONTINUE = {
    "train": "the same command with --resume",
    "rerun": "the same command",
    "evaluate": "the same command",
    "demo": "the same command",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 1 where `rerun` finds a difference, 2 for something the user can fix (one line on
    stderr), 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    name = words[0] if words else ""
    try:
        if name in TOY:  # it has a parser of its own
            resolve_name(TOY[name][0])(words[1:])
        else:
            args = build_parser().read(words)
            return resolve_name(args.run)(args) or 0
    except Interrupted as stopped:
        return complain(f"{stopped}; {CONTINUE[name]} goes on", code=130)
    except KeyboardInterrupt:
        writes = name != "evaluate" or any(word.startswith("--output") for word in words)
        rest = f"; what was written stands, and {CONTINUE[name]} goes on" if name in CONTINUE and writes else ""
        return complain(f"stopped{rest}", code=130)
    except (ValueError, OSError) as error:
        if "--traceback" in words:
            raise
        return complain(" ".join(str(error).split()), code=2)
    except RuntimeError as error:
        import torch  # seconds, which grade and table need not spend

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        settings = "sampler.micro_batch, train.score_micro_batch or loss.micro_batch"
        return complain(f"out of memory; lower {settings}, or set model.gradient_checkpointing=true (see dmpo plan)", code=2)
    return 0
