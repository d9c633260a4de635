# SPDX-License-Identifier: GPL-2.0
"""Progress of long steps, on stderr, for a person or for a log.

On a terminal one line is rewritten; elsewhere a line is printed when a step
starts, every INTERVAL_S seconds, and when it ends.
"""

import shutil
import sys
import threading
import time
from typing import Self

INTERVAL_S = 20


def note(text: str) -> None:
    """Prints one line about what is going on."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A duration as a person reads it: 7 s, 3:05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


class Step:
    """A step that takes a while; use it as a context manager.

    `detail` is called now and then, and gives what to show beside the name.
    """

    def __init__(self, name: str, detail=None):
        self.name = name
        self.detail = detail or (lambda: "")
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        if not self._terminal:
            note(f"{self.name} ...")
        self._thread.start()
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self._stop.set()
        self._thread.join()
        took = duration(time.monotonic() - self._start)
        outcome = f"done in {took}" if kind is None else f"stopped after {took}"
        start = "\r\033[K" if self._terminal else ""
        note(f"{start}{self.name}: {outcome}")

    def _show(self) -> None:
        while not self._stop.wait(0.5 if self._terminal else INTERVAL_S):
            elapsed = duration(time.monotonic() - self._start)
            line = f"{self.name}: {elapsed} {self.detail()}".rstrip()
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)
            else:
                note(line)
