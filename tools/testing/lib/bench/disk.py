# SPDX-License-Identifier: GPL-2.0
"""fio in confidential guests, over cc_swiotlb and over swiotlb in turn.

It shows whether anything is lost from end to end.  QEMU's emulation of the CPU
takes most of the time, so differences are smaller than they are on hardware.
"""

import itertools
import json
import statistics
import subprocess

from lib import repository
from lib.failure import Failure

CCVM = repository.TESTING / "ccvm"
IMPLS = {"cc": "cc", "legacy-dynamic": "legacy"}
DISK = "/dev/nvme0n1"
READS = (("randread", "4k"), ("read", "128k"))
WRITES = (("randwrite", "4k"), ("write", "128k"))
JOBS = (1, 4)
DEPTHS = (1, 32)
KIB = 1024


# Pattern, block size, jobs, queue depth.
Row = tuple[str, str, int, int]


def all_rows() -> list[Row]:
    """All rows."""
    return [
        (*pattern, jobs, depth)
        for pattern, jobs, depth in itertools.product(READS + WRITES, JOBS, DEPTHS)
    ]


def few() -> list[Row]:
    """The ends of the range."""
    ends = ((JOBS[0], DEPTHS[0]), (JOBS[-1], DEPTHS[-1]))
    return [(*pattern, *end) for pattern in READS for end in ends]


def _name(row: Row) -> str:
    return "-".join(map(str, row))


def _command(wanted: list[Row], seconds: float) -> str:
    """Runs one row after the other; each prints its results as JSON."""
    lines = []
    for row in wanted:
        rw, size, jobs, depth = row
        lines.append(
            f"fio --name={_name(row)} --filename={DISK} --rw={rw} --bs={size} "
            f"--numjobs={jobs} --iodepth={depth} --ioengine=libaio --direct=1 "
            f"--size=128M --time_based --runtime={seconds}s --ramp_time=300ms "
            f"--group_reporting --randrepeat=1 --output-format=json "
            f"--output=/tmp/out && cat /tmp/out && echo '=== next' || exit 1"
        )
    return "\n".join(lines)


def _run(impl: str, wanted: list[Row], seconds: float) -> dict[str, float]:
    """I/O requests a second, by row, in one guest."""
    timeout = 120 + len(wanted) * (seconds + 5)
    words = [str(CCVM), "run", "--swiotlb", IMPLS[impl], "--blk", "0"]
    words += ["--timeout", f"{timeout:.0f}", "--", _command(wanted, seconds)]
    result = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise Failure(f"fio over {impl}: {result.stderr[-3000:]}")
    found = {}
    for part in result.stdout.split("=== next")[:-1]:
        job = json.loads(part[part.index("{") :])["jobs"][0]
        if job["error"]:
            raise Failure(f"fio over {impl}: {job['jobname']}: error {job['error']}")
        found[job["jobname"]] = job["read"]["iops"] + job["write"]["iops"]
    return found


def measure(
    rounds: int, seconds: float, wanted: list[Row], step
) -> list[dict[str, object]]:
    """The rows in turn over both, in `rounds` guests each."""
    seen: dict[str, list[dict[str, float]]] = {impl: [] for impl in IMPLS}
    for number in range(rounds):
        for impl in IMPLS:
            step(f"fio: round {number + 1} of {rounds}, {impl}")
            seen[impl].append(_run(impl, wanted, seconds))
    records = []
    for impl, row in itertools.product(IMPLS, wanted):
        iops = [each[_name(row)] for each in seen[impl]]
        median = statistics.median(iops)
        block = int(row[1].removesuffix("k")) * KIB
        records.append(
            {
                "impl": impl,
                "rw": row[0],
                "bs": block,
                "jobs": row[2],
                "iodepth": row[3],
                "iops": round(median, 1),
                "iops_min": round(min(iops), 1),
                "iops_max": round(max(iops), 1),
                "mib_per_s": round(median * block / (KIB * KIB), 2),
            }
        )
    return records
