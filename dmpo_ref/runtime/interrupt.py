"""Ctrl-C, SIGTERM and SIGHUP: the current round is finished and saved first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C; clusters send the second before they take a machine; a closed terminal
GRACE = 3.0  # seconds that Python has to end normally after the second signal


class Interrupted(Exception):
    """The run was stopped by Ctrl-C, SIGTERM or SIGHUP after a checkpoint; the message says where."""


class StopSignal:
    """Within it, the first of `STOPS` only sets `requested`, so that the round can end in a checkpoint; a second one stops at once.

    Python runs no handler while it waits inside a library, for example for a process that hangs. So a thread counts the
    signals and ends the process at the second. A signal that is ignored, as SIGHUP is under nohup, stays so.
    """

    def __enter__(self) -> StopSignal:
        self.requested, self.previous, self.ended = False, {}, threading.Event()
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to it alone
            self.previous = {number: signal.getsignal(number) for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN}
            self.reader, self.writer = os.pipe()
            os.set_blocking(self.writer, False)
            self.wakeup = signal.set_wakeup_fd(self.writer)
            threading.Thread(target=self._count, daemon=True).start()
            for number in self.previous:
                signal.signal(number, self._request)
        return self

    def _request(self, *_: Any) -> None:
        self.requested = True
        self._restore()
        with suppress(OSError):  # the terminal may be closed
            print("\nstopping: finishing this round, then saving; Ctrl-C or SIGTERM once more to stop at once", file=sys.stderr)

    def _count(self) -> None:
        received = 0
        while received < 2 and (number := os.read(self.reader, 1)):
            received += number[0] in self.previous
        os.close(self.reader)
        if received == 2 and not self.ended.wait(GRACE):
            os.write(2, b"dmpo: stopped at once, while waiting for something that did not come; the newest checkpoint stands\n")
            os._exit(128 + number[0])

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        if self.previous:
            self._restore()
            signal.set_wakeup_fd(self.wakeup)
            os.close(self.writer)  # ends the thread
