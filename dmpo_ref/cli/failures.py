"""Messages for errors that other libraries raise: which file or resource is the cause, and what to do."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dmpo_ref.cli.terminal import complain

REMEDIES = {
    errno.ENOSPC: "free some space, then repeat the command",
    errno.EDQUOT: "free some space, then repeat the command",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions, or choose another",
    errno.EPERM: "change its permissions, or choose another",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the name",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "give a name below a folder",
    errno.ELOOP: "repair its links, which lead in a circle",
    errno.EMFILE: "raise ulimit -n",
    errno.ENOMEM: "end other programs, or ask for less",
}
SETTINGS = "sampler.micro_batch, train.score_micro_batch or loss.micro_batch"
MEMORY = f"out of memory; lower {SETTINGS}, set model.gradient_checkpointing=true, or lower train.num_rollouts (see dmpo plan)"
# What libraries say, in a plain RuntimeError, when a resource is used up or missing.
USED_UP = {
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|[Uu]nable to allocate|Cannot allocate"
    r"|(size calculation|multiplication) overflow": MEMORY,
    r"without overflow": "a number became larger than its type can hold; lower optimizer.learning_rate",
    r"can't start new thread|Resource temporarily unavailable": "no more threads can be started; set threads=1, or end other programs",
    r"gloo|NCCL|Connection (closed|reset)|Broken pipe|TCPStore|process ?group": "another process of this run has ended "
    "(its own message says why) or cannot be reached; start all of them again, with --resume if a checkpoint was saved",
}


def describe_failure(error: Exception) -> str | None:
    """What was wrong and what to do; None for an error that no user can fix, which is a bug."""
    if isinstance(error, OSError) and error.strerror and error.errno in REMEDIES:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}; {REMEDIES[error.errno]}"
    if isinstance(error, ValueError | OSError):
        return str(error)
    if isinstance(error, MemoryError):
        return MEMORY
    return next((advice for pattern, advice in USED_UP.items() if re.search(pattern, str(error))), None)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within it, Ctrl-C ends the process. It is for imports: there is nothing to save, and modules may catch a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(complain("stopped", code=130)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
