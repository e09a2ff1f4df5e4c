"""Runs a function that reads answers with third-party code in a separate process that can be killed.

What a library's own time limit cannot stop (one long multiplication such as 9^{9^{9}}), or what evaluates an answer as code, must not
run in a training process. Here a second Python process computes, one line after another. It ends itself when a line takes longer than
`SECONDS` or more than `MEMORY`, and the next line starts a new one. This file is also what that process runs.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import json
import logging
import os
import subprocess
import sys
from subprocess import PIPE
from threading import Lock
from typing import Any

SECONDS, START_SECONDS = 5, 120  # for one line; for the imports of a new process, which may share its core with a training run
MEMORY = 4 << 30  # bytes of address space, where the system can limit it


def ask(function: str, *words: Any) -> Any:
    """The result of a function, given as `module:name`, for arguments that JSON can hold; None if it exceeded the bounds.

    The module is imported in the other process only, and its `prepare()` called once.
    """
    # One helper for each calling process: a forked process must not share pipes with its parent.
    return HELPERS.setdefault((os.getpid(), function), Helper(function)).ask(*words)


class Helper:
    """The separate process, started on first use. Threads take turns."""

    def __init__(self, function: str):
        self.function = function
        self.lock = Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, *words: Any) -> Any:
        """As `ask`; None if the process ended instead of answering."""
        with self.lock:
            try:
                if self.process is None or self.process.poll() is not None:
                    self.stop()
                    command = [sys.executable, os.path.abspath(__file__), self.function, str(SECONDS)]
                    places = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                    self.process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL, env=places)
                assert self.process.stdin and self.process.stdout  # both are pipes
                self.process.stdin.write(json.dumps(words).encode() + b"\n")
                self.process.stdin.flush()
                return json.loads(self.process.stdout.readline())
            except (OSError, ValueError):  # a broken pipe, or its end instead of a line
                self.stop()
                return None
            except BaseException:  # Ctrl-C: its answer, still to come, must not be taken for the next one
                self.stop()
                raise

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in filter(None, (self.process.stdin, self.process.stdout)):
                with contextlib.suppress(OSError):
                    pipe.close()
            self.process = None


HELPERS: dict[tuple[int, str], Helper] = {}  # by process id and function


@atexit.register
def stop_helpers() -> None:
    """End this process's own helpers."""
    for (process, _), helper in HELPERS.items():
        if process == os.getpid():
            helper.stop()


def main(function: str, seconds: float) -> None:
    """Read words as lines of JSON, answer with what the function returns, end with the input or at a line that takes too long."""
    sys.path.pop(0)  # the folder of this file, whose names are not top-level modules
    logging.disable()
    output, sys.stdout = sys.stdout, sys.stderr
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # optional: Windows has none

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # A watchdog outside the interpreter: it ends the process even in the middle of one long operation.
    faulthandler.dump_traceback_later(START_SECONDS, exit=True)
    module, _, name = function.partition(":")
    loaded = importlib.import_module(module)
    loaded.prepare()
    for line in sys.stdin:
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            found = getattr(loaded, name)(*json.loads(line))
        except (Exception, RecursionError, MemoryError):
            found = None
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(found), file=output, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
