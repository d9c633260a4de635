# SPDX-License-Identifier: GPL-2.0
"""Runs commands in test guests through ccvm, and keeps their output."""

import dataclasses
import functools
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from lib.failure import Failure

TESTING = Path(__file__).resolve().parents[1]
ROOT = TESTING.parents[1]
CCVM = TESTING / "ccvm"

# ccvm's own statuses.
HANG, PANIC, GONE, COMPLAINT, TIMEOUT, SETUP = range(120, 126)

STATS = "/sys/kernel/debug/cc_swiotlb/stats"
CLASSES = "/sys/kernel/debug/cc_swiotlb/classes"
NODES = "/sys/kernel/debug/cc_swiotlb/nodes"
DRAIN = "/sys/kernel/debug/cc_swiotlb/drain"
PARAMETERS = "/sys/module/cc_swiotlb/parameters"
# The data that a file system writes back at once, in 256 requests that are mapped under
# a lock.  The counters show that nothing is lost; test_burst.py is about shortage.
WRITE_BACK = "128M"
# What the emulated host did, see ccvm.rst.
EMULATION = "/sys/kernel/debug/cc_emul/stats"
# How many times longer a guest may take where others want the machine's CPUs.
PATIENCE = 2


@dataclasses.dataclass
class Result:
    """The output of a guest."""

    status: int
    stdout: str
    stderr: str
    console: str

    def tail(self) -> str:
        """Enough of it to see why a test failed."""
        return (
            f"status {self.status}\n--- stdout\n{self.stdout[-3000:]}\n"
            f"--- stderr\n{self.stderr[-4000:]}"
        )

    def section(self, name: str) -> str:
        """What was printed between the mark `name` and the next one."""
        found = re.search(
            rf"^=== {re.escape(name)}\n(.*?)(?=^=== |\Z)", self.stdout, re.M | re.S
        )
        assert found, f"no section {name} in the output\n{self.tail()}"
        return found.group(1)

    def stats(self, name: str = "stats") -> dict[str, str]:
        """The counters of a section that shows the file `stats`."""
        pairs = re.findall(r"^(\w+): *(.*)$", self.section(name), re.M)
        assert pairs, f"no counters in section {name}\n{self.tail()}"
        return dict(pairs)

    def count(self, key: str, name: str = "stats") -> int:
        """One counter of such a section."""
        stats = self.stats(name)
        assert key in stats, f"no counter {key}: {', '.join(stats)}"
        return int(stats[key])

    def classes(self, name: str = "classes") -> dict[str, dict[str, int]]:
        """The table of a section that shows the file `classes`."""
        header, *rows = [line.split() for line in self.section(name).splitlines()]
        assert header[0] == "class", f"no table of classes: {header}"
        return {
            row[0]: dict(zip(header[1:], map(int, row[1:]), strict=True))
            for row in rows
            if row
        }

    def nodes(self, name: str = "nodes") -> dict[int, dict[str, int]]:
        """By node, the first table of a section that shows the file `nodes`."""
        table = self.section(name).partition("node class")[0]
        header, *rows = [line.split() for line in table.splitlines()]
        assert header[:2] == ["node", "bound"], f"no table of nodes: {header}"
        return {
            int(row[0]): dict(zip(header[1:], map(int, row[1:]), strict=True))
            for row in rows
        }

    def depots(self, name: str = "nodes") -> dict[tuple[int, str], dict[str, int]]:
        """By node and class, the second table of such a section."""
        _, found, table = self.section(name).partition("node class")
        assert found, f"no table of depots\n{self.tail()}"
        header, *rows = [line.split() for line in f"{found}{table}".splitlines()]
        return {
            (int(row[0]), row[1]): dict(zip(header[2:], map(int, row[2:]), strict=True))
            for row in rows
            if row
        }

    def ready_bytes(self, name: str = "nodes") -> int:
        """The bytes that all nodes have ready, in such a section."""
        return sum(row["ready_bytes"] for row in self.nodes(name).values())


def slot_bytes(name: str) -> int:
    """Bytes in a slot of the class `name`."""
    return int(name[:-1]) << 10 if name.endswith("K") else int(name)


def once(function):
    """As functools.lru_cache, but remembers a failure as well.

    A guest that hangs must not be started again for each test that looks at it.
    """
    known: dict[tuple, tuple] = {}

    @functools.wraps(function)
    def remembered(*arguments):
        if arguments not in known:
            try:
                known[arguments] = (function(*arguments), None)
            except (AssertionError, Failure, subprocess.SubprocessError) as error:
                known[arguments] = (None, error)
        value, error = known[arguments]
        if error:
            raise error
        return value

    return remembered


def _run_once(words: list[str], console: Path, timeout: int) -> Result:
    # ccvm has its own time-out; this one is for ccvm, and for a build that it may
    # have to do first.
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout + 3600,
        check=False,
    )
    text = ""
    if console.exists():
        text = console.read_text(encoding="utf-8", errors="replace")
    return Result(done.returncode, done.stdout, done.stderr, text.replace("\r", ""))


def run(
    command: str, *options: str, status: int | None = 0, timeout: int = 120
) -> Result:
    """Boots a guest and runs a shell command in it.

    `status` is what it must end with, None for anything. `timeout` is what it may
    take, in seconds, on a machine that has nothing else to do.
    """
    timeout *= PATIENCE
    with tempfile.TemporaryDirectory(prefix="cc-swiotlb-") as folder:
        console = Path(folder) / "console"
        words = [str(CCVM), "run", "--timeout", str(timeout), "--console", str(console)]
        words += [*options, "--", command]
        result = _run_once(words, console, timeout)
    if status is not None:
        assert result.status == status, f"{shlex.join(words)}\n{result.tail()}"
    return result


def show(name: str, path: str) -> str:
    """A shell command that prints a file, if there is one, as a section."""
    return f"echo '=== {name}'; [ ! -e {path} ] || cat {path}"


def counters() -> str:
    """A shell command that prints what cc_swiotlb shows in debugfs."""
    return (
        f"{show('stats', STATS)}; {show('classes', CLASSES)}; {show('nodes', NODES)};"
        " echo '=== end of counters'"
    )


def settle() -> str:
    """A shell command that waits until no memory is on its way out of the pool.

    Between leaving the pool and becoming private, a chunk is in neither number.
    """
    return (
        "for i in $(seq 50); do awk '{ is[$1] = $2 } END { exit"
        ' is["shared_bytes:"] + is["give_back_bytes:"] + is["leaked_bytes:"]'
        f' != is["conversion_bytes:"] }}\' {STATS} && break; sleep 0.1; done'
    )


def steady(ms: int) -> str:
    """A shell command that waits until as much is shared for so many milliseconds."""
    return (
        f"same=0; is=; for i in $(seq 600); do was=$is is=$(grep ^shared_bytes: {STATS});"
        ' same=$((same + 1)); [ "$was" = "$is" ] || same=0;'
        f" [ $same -lt {ms // 100} ] || break; sleep 0.1; done"
    )


def log() -> str:
    """A shell command that prints the kernel log as the section `log`.

    For exact reading: an emulated serial console loses characters under load.
    It needs LOG_SPACE on the kernel's command line.
    """
    return "echo '=== log'; dmesg"


LOG_SPACE = "log_buf_len=8M printk.devkmsg=on"


def wait_ready() -> str:
    """A shell command that waits until kccd has filled the pools."""
    return (
        f"for i in $(seq 100); do grep -qE '^shared_bytes: *[1-9]|off' {STATS} &&"
        " break; sleep 0.1; done; sleep 0.3"
    )


def lines(text: str, pattern: str) -> list[str]:
    """The lines that match."""
    return [line for line in text.splitlines() if re.search(pattern, line)]


def make_arguments(flavour: str = "guest") -> list[str]:
    """The arguments by which make uses the kernel's toolchain."""
    done = subprocess.run(
        [CCVM, "make-args", "--flavour", flavour],
        capture_output=True,
        text=True,
        check=True,
    )
    return shlex.split(done.stdout)


def kdir(flavour: str = "guest") -> Path:
    """The kernel's build folder."""
    words = [str(CCVM), "kdir", "--flavour", flavour]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def build_module(
    name: str, output: Path, flavour: str = "guest", parent: Path = TESTING
) -> Path:
    """A test module, `name` being its folder, for one of the kernels."""
    output.mkdir(parents=True, exist_ok=True)
    folder = kdir(flavour)
    words = ["make", "-C", str(folder), f"M={parent / name}", f"MO={output}"]
    environment = {**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"}
    done = subprocess.run(
        [*words, *make_arguments(flavour), "W=1", "modules"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"flavour {flavour}: {said[-4000:]}"
    assert "warning:" not in said.lower(), f"flavour {flavour}: {said[-4000:]}"
    return output / f"cc_swiotlb_{name}.ko"
