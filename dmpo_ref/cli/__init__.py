"""?"""

from __future__ import annotations

import torch

from dmpo_ref.cli.commands import complain, run_demo, run_evaluate
from dmpo_ref.cli.parser import build_parser
from dmpo_ref.runtime.interrupt import Interrupted


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 2 for something the user can mend (one line on stderr), 130 after Ctrl-C."""
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    # argparse stops collecting key=value at the first flag; those after it arrive here.
    if wrong := [word for word in rest if "=" not in word or word.startswith("-") or not hasattr(args, "overrides")]:
        parser.error(f"unrecognized argument {wrong[0]!r}; options are given as section.key=value, see --help")
    if rest:
        args.overrides = [*args.overrides, *rest]
    try:
        args.run(args)
    except Interrupted as stopped:
        how = "the same command" if args.run is run_demo else "the same command with --resume"
        return complain(f"{stopped}; {how} goes on", code=130)
    except KeyboardInterrupt:
        how = "the same command" if args.run in (run_demo, run_evaluate) else "the same command with --resume"
        return complain(f"stopped; what was written stands, and {how} goes on", code=130)
    except torch.OutOfMemoryError:
        settings = "sampler.micro_batch, train.score_micro_batch or loss.micro_batch"
        return complain(f"out of memory; lower {settings}, or set model.gradient_checkpointing=true (see dmpo plan)", code=2)
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        return complain(" ".join(str(error).split()), code=2)
    return 0
