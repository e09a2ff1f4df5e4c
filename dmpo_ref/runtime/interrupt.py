"""Ctrl-C and SIGTERM: the round under way is finished and saved first."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any


class Interrupted(Exception):
    """The run was stopped by Ctrl-C or SIGTERM after a checkpoint; the message says where."""


class StopSignal:
    """Within it, the first Ctrl-C or SIGTERM (which clusters send before they take a machine back) only sets `requested`, so that
    the round can end in a checkpoint; a second one stops at once."""

    def __enter__(self) -> StopSignal:
        self.requested, self.previous = False, {}
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to it alone
            self.previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _request(self, *_: Any) -> None:
        self.requested = True
        self.__exit__()
        print("\nstopping: finishing this round, then saving; Ctrl-C or SIGTERM once more to stop at once", file=sys.stderr)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
