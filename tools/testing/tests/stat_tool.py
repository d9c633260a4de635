# SPDX-License-Identifier: GPL-2.0
"""cc_swiotlb_stat for its tests: the tool, folders for it to read, a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import vm

FOLDER = vm.ROOT / "tools" / "cc_swiotlb_stat"
MIB = 1 << 20
UNKNOWN = 3
CLASSES = ["512B"] + [f"{2 << step}kB" for step in range(9)]

# A problem that has a reason.
TROUBLE = {"refused": 50, "refused_reason": "slow", "peak_bound_bytes": 100 * MIB}

HEALTHY = {
    "state": "on",
    "shared_bytes": 34 * MIB,
    "peak_shared_bytes": 40 * MIB,
    "max_bytes": 512 * MIB,
    "watermark_bytes": 14 * MIB,
    "legacy_bytes": 4 * MIB,
    "bound_bytes": 20 * MIB,
    "peak_bound_bytes": 24 * MIB,
    "unbound_bytes": 14 * MIB,
    "in_use_bytes": 10 * MIB,
    "demand_bytes": 22 * MIB,
    "lent_bytes": 3 * MIB,
    "lent_span_bytes": 4 * MIB,
    "leaked_bytes": 0,
    "mapped": 12345678,
    "unmapped": 12345422,
    "mapped_bytes": 50 << 30,
    "unmapped_bytes": 49 << 30,
    "fallback_larger": 0,
    "fallback_legacy": 0,
    "fallback_unreachable": 0,
    "fallback_oversize": 0,
    "fallback_early": 5,
    "lend_refused": 0,
    "lend_oversize": 1,
    "lend_deferred": 0,
    "refused": 0,
    "refused_reason": "none",
    "conversions": 17,
    "conversion_bytes": 34 * MIB,
    "conversion_ns": 205_700_000,
    "conversion_failures": 0,
    "give_backs": 3,
    "give_back_bytes": 6 * MIB,
    "give_back_ns": 33_000_000,
    "give_back_failures": 0,
    "allocation_failures": 0,
    "single_spans": 0,
    "misuse": 0,
}
SLOTS = {
    "bound_bytes": 2 * MIB,
    "slots": 1024,
    "free": 800,
    "cached": 100,
    "in_use": 124,
    "mapped": 1234567,
    "unmapped": 1234443,
    "mapped_bytes": 5 << 30,
    "unmapped_bytes": 5 << 30,
    "fallback_larger": 0,
    "fallback_legacy": 0,
    "refused": 0,
    "watermark": 0,
}


@vm.once
def tool() -> str:
    """The binary, built if these sources were not built before."""
    done = subprocess.run(
        [FOLDER / "build"], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def write(folder: Path, values: dict) -> None:
    """Writes files of these names and values, each in one step; None removes one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        if value is None:
            (folder / name).unlink()
            continue
        new = folder / f".{name}"
        new.write_text(f"{value}\n")
        new.rename(folder / name)


def allocator(folder: Path, changes: dict | None = None, **classes: dict) -> Path:
    """Makes a folder as in sysfs, with these changes; classes by name: c4kB={...}."""
    write(folder, HEALTHY | (changes or {}))
    for name in CLASSES:
        write(folder / f"slots-{name}", SLOTS | classes.get(f"c{name}", {}))
    return folder


def write_log(path: Path, *samples: dict) -> None:
    """Writes a log of samples, ten seconds apart: a healthy allocator with changes."""
    lines = [
        json.dumps({"time_ms": 951782399000 + 10000 * n} | HEALTHY | each)
        for n, each in enumerate(samples)
    ]
    path.write_text("\n".join(lines) + "\n")


def run(*words, status: int = 0) -> str:
    """The tool's output; it has to end with this status and report no error."""
    done = subprocess.run(
        [tool(), *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout


class Terminal:
    """The tool in a terminal whose screen can be read."""

    ESCAPE = re.compile(
        r"\x1b\[([?0-9;]*)([a-zA-Z])|\x1b[^\[]|[\r\n]|([^\x1b\r\n])", re.S
    )

    def __init__(self, width: int, height: int, *words, keyboard: bool = True):
        self.raw = ""
        self._master, self._slave = pty.openpty()
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
        self.before = termios.tcgetattr(self._slave)
        self._process = subprocess.Popen(
            [tool(), *map(str, words)],
            stdin=self._slave if keyboard else subprocess.DEVNULL,
            stdout=self._slave,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_exception) -> None:
        self._process.kill()
        self._process.communicate()
        os.close(self._master)
        os.close(self._slave)

    def _read(self, timeout: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], timeout)
        if ready:
            self.raw += os.read(self._master, 65536).decode()
        return bool(ready)

    def lines(self) -> list[str]:
        """The screen."""
        cells: dict[tuple[int, int], str] = {}
        row = column = 1
        for found in self.ESCAPE.finditer(self.raw):
            arguments, command, char = found.groups()
            if command == "H":
                row, column = map(int, (arguments or "1;1").split(";"))
            elif command == "J":
                cells = {}
            elif char:
                cells[row, column] = char
                column += 1
        bottom = max((place[0] for place in cells), default=0)
        right = max((place[1] for place in cells), default=0)
        return [
            "".join(cells.get((y, x), " ") for x in range(1, right + 1)).rstrip()
            for y in range(1, bottom + 1)
        ]

    def wait(self, words: str) -> list[str]:
        """Waits until the words are on the screen; gives the screen."""
        end = time.monotonic() + 10
        while words not in "\n".join(self.lines()):
            left = end - time.monotonic()
            assert left > 0, f"no {words!r} on the screen:\n" + "\n".join(self.lines())
            self._read(left)
        return self.lines()

    def press(self, keys: str) -> None:
        """Presses keys."""
        os.write(self._master, keys.encode())

    def end(self) -> tuple[int, str]:
        """Waits for the end; gives the status and what went to standard error."""
        status = self._process.wait(timeout=10)
        with contextlib.suppress(OSError):
            while self._read(0.1):
                pass
        return status, self._process.stderr.read()

    def restored(self) -> bool:
        """Whether the terminal is as it was."""
        screens = re.findall(r"\x1b\[\?1049([hl])", self.raw)
        cursor = re.findall(r"\x1b\[\?25([hl])", self.raw)
        same = termios.tcgetattr(self._slave) == self.before
        return same and screens == ["h", "l"] and cursor[-1:] == ["h"]
