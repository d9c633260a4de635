# SPDX-License-Identifier: GPL-2.0
"""One burst in one guest: many readers that begin at once on many slow disks.

The program workload/burst makes the load and samples the counters; report.py reads
what it prints.
"""

import dataclasses
import functools
import os
import subprocess
import tempfile
from pathlib import Path

from lib import repository
from lib.burst import report
from lib.failure import Failure

CCVM = repository.TESTING / "ccvm"
SOURCE = repository.TESTING / "workload" / "burst"

LATENCY_MS = 100
BUSES = ("nvme", "blk", "scsi", "ahci")

# The allocator of the guest: cc_swiotlb, swiotlb's static pool of default size, or
# swiotlb that grows from the size that cc_swiotlb begins with.
IMPLS = ("cc", "static", "dynamic")

# This much memory is touched, if there is as much, to leave only single free pages.
FRAGMENT_MIB = 3500


@dataclasses.dataclass(frozen=True)
class Burst:
    """A burst, and the guest that it happens in."""

    impl: str = "cc"
    bus: str = "nvme"
    """How the disks are attached; scsi+ahci is half of them each."""
    scattered: bool = False
    fragmented: bool = False
    convert_us: int = 0
    disks: int = 20
    cpus: int = 4
    memory: str = "4G"
    readers: int = 160
    """Direct readers."""
    load: str = ""
    """More for the program: other workers, sizes, rounds."""
    append: str = ""
    """More for the kernel's command line."""
    timeout_s: int = 800
    start_bytes: int = dataclasses.field(default=24 * report.MIB, compare=False)
    """What "dynamic" begins with."""

    def __str__(self) -> str:
        buffers = "scattered" if self.scattered else "contiguous"
        memory = ", fragmented" if self.fragmented else ""
        return f"{self.bus}, {buffers}{memory}, {self.convert_us} us, {self.impl}"

    def paths(self) -> list[str]:
        """The disks in the guest."""
        if self.bus == "nvme":
            return [f"/dev/nvme{index}n1" for index in range(self.disks)]
        letter = "vd" if self.bus == "blk" else "sd"
        return [f"/dev/{letter}{chr(ord('a') + index)}" for index in range(self.disks)]

    def slots(self) -> int:
        """The initial size of "dynamic", in slots.

        It is rounded down to a power of two. swiotlb would round it up by itself, and
        its boot would then be longer than that of cc_swiotlb.
        """
        return 1 << (self.start_bytes // report.SLOT_BYTES).bit_length() - 1

    def disk_options(self) -> list[str]:
        """The options of ccvm for the disks."""
        own = self.bus.split("+")
        counts = dict.fromkeys(BUSES, 0) | dict.fromkeys(own, self.disks // len(own))
        found = ["--null-ms", str(LATENCY_MS)]
        for bus, count in counts.items():
            found += [f"--{bus}", str(count)]
        return found

    def command(self) -> str:
        """The command that the guest runs."""
        words = ["/host/burst", "-r", str(self.readers)]
        words += ["-x"] * self.scattered
        if self.fragmented:
            words += ["-f", str(FRAGMENT_MIB)]
        words += [self.load, *self.paths()]
        # The uptime is the time from the start of the kernel to the command.
        return f"cut -d' ' -f1 /proc/uptime; {' '.join(words)}; echo \"status $?\""

    def words(self, program: Path, console: Path) -> list[str]:
        """The call of ccvm."""
        append = [self.append] if self.append else []
        if self.impl == "dynamic":
            append.append(f"swiotlb={self.slots()}")
        if self.bus == "nvme":
            # The atomic pools of a guest of this size are too small for the lists
            # that 20 disks need at once.
            append.append("coherent_pool=2M")
        return [
            *(str(CCVM), "run", "--convert-us", str(self.convert_us)),
            *("--swiotlb", "cc" if self.impl == "cc" else "legacy"),
            *("--cpus", str(self.cpus), "--mem", self.memory),
            *self.disk_options(),
            *("--append", " ".join(append), "--console", str(console)),
            *("--timeout", str(self.timeout_s), "--add", str(program)),
            *("--", self.command()),
        ]


@functools.cache
def build_program() -> Path:
    """Builds the program that makes the load, once."""
    folder = Path(tempfile.mkdtemp(prefix="cc-swiotlb-burst-"))
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(SOURCE), f"O={folder}"],
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"{done.stderr}\nthe program of the bursts did not build")
    return folder / "burst"


def run(burst: Burst) -> report.Report:
    """Runs a burst, and returns its report."""
    with tempfile.TemporaryDirectory(prefix="cc-swiotlb-") as folder:
        console = Path(folder) / "console"
        done = subprocess.run(
            burst.words(build_program(), console),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        log = ""
        if console.exists():
            log = console.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        raise Failure(f"{burst}: {done.stderr[-3000:]}\nstatus {done.returncode}")
    return report.Report(done.stdout, log.replace("\r", ""))
