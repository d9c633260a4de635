# SPDX-License-Identifier: GPL-2.0
"""Searches the guest's console for messages that a healthy kernel does not print."""

import re

# The kernel found a fault in itself, or a lock that is used in a wrong way.
COMPLAINT = re.compile(
    r"WARNING:|BUG:|KASAN:|KCSAN:|KFENCE:|UBSAN:|DMA-API:.*(?:warning|error)|refcount_t:"
    r"|possible circular locking|possible recursive locking|suspicious RCU usage"
    r"|inconsistent lock state|possible irq lock inversion|bad unlock balance"
    r"|Invalid wait context|sleeping function called from invalid"
    r"|general protection fault|Oops|Call Trace:|Bad page state"
    r"|list_(?:add|del) corruption"
)
# No progress for longer than the kernel thinks possible.
HANG = re.compile(
    r"soft lockup|hard LOCKUP|blocked for more than|detected stalls|self-detected stall"
    r"|workqueue lockup"
)
# From here on, CPUs are only being stopped. One that QEMU runs late may still hand
# tasks to CPUs that have stopped, about which the scheduler warns.
DOWN = re.compile(r"reboot: Power down")
PANIC = re.compile(r"Kernel panic - not syncing")

TAIL_LINES = 40


class Console:
    """Collects the console's output and notes the suspicious lines."""

    def __init__(self) -> None:
        self._rest = b""
        self.tail: list[str] = []
        self.complaints: list[str] = []
        self.hangs: list[str] = []
        self.panic = ""
        self._down = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of output."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode(errors="replace").rstrip("\r"))

    def finish(self) -> None:
        """There is no more output."""
        if self._rest:
            self._line(self._rest.decode(errors="replace"))
            self._rest = b""

    def _line(self, line: str) -> None:
        self.tail.append(line)
        del self.tail[:-TAIL_LINES]
        if PANIC.search(line):
            self.panic = self.panic or line
        elif self._down or DOWN.search(line):
            self._down = True
        elif HANG.search(line):
            self.hangs.append(line)
        elif COMPLAINT.search(line):
            self.complaints.append(line)
