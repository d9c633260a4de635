# SPDX-License-Identifier: GPL-2.0
"""Counts instructions: the benchmark module in QEMU with -icount.

The guest's clock counts the guest's instructions, one a nanosecond, so that the
numbers are exact and the machine's noise is not in them.  It does not show how
long an instruction takes.
"""

import re
import subprocess
from pathlib import Path

from lib import repository
from lib.bench import module
from lib.failure import Failure
from lib.kernel import Kernel

CCVM = repository.TESTING / "ccvm"
SIZES = (64, 512, 4096, 65536, 262144)
DEPTHS = (1, 16)
MARK = "=== results"

# The same call where nothing is bounced: the cost of the DMA layer itself.
UNBOUNCED = "unbounced"
VARIANTS = {
    "cc": ["--swiotlb", "cc"],
    "legacy-dynamic": ["--swiotlb", "legacy"],
    UNBOUNCED: ["--swiotlb", "legacy", "--append", "swiotlb=noforce"],
}


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _results(kernel: Kernel, built: Path, options: list[str], parameters: str) -> str:
    command = f"insmod /host/{built.name} {parameters} && echo '{MARK}' && "
    command += f"cat {module.RESULTS}"
    words = [
        str(CCVM),
        "run",
        "--flavour",
        kernel.flavour,
        "--guest",
        "plain",
        "--cpus",
        "1",
    ]
    words += ["--nvme", "0", "--blk", "0", "--mem", "1G", "--timeout", "300", *options]
    words += ["--accel", "tcg,thread=single", "--add", str(built)]
    words += ["--qemu-append", "-icount shift=0,sleep=off", "--", command]
    result = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise Failure(result.stderr[-3000:])
    _, _, results = result.stdout.partition(MARK)
    return re.sub(r"\r", "", results).strip()


def _run(kernel: Kernel, built: Path, options: list[str], quick: bool) -> dict:
    modes, depths = ("single", DEPTHS[:1]) if quick else ("*", DEPTHS)
    # Five slices of each loop end before a tick has disturbed more than two: the least
    # is clean, except where a single round takes longer than a slice.
    parameters = f"modes={modes} slice_us=300 sizes={_list(SIZES)}"
    found = module.parse(
        _results(kernel, built, options, f"{parameters} depths={_list(depths)}")
    )
    for case, time in found.items():
        # So few mappings at a time are never refused.
        if time.error or time.refused:
            raise Failure(f"{case}: error {time.error}, {time.refused} were refused")
    return found


def measure(kernel: Kernel, built: Path, quick: bool, step) -> list[dict[str, object]]:
    """Instructions for a map and an unmap, less the copy.

    `beyond` is the number beyond the cost of the same call where nothing is bounced.
    """
    times = {}
    for impl, options in VARIANTS.items():
        step(f"counting instructions: {impl}")
        times[impl] = _run(kernel, built, options, quick)
    records = []
    for impl, cases in times.items():
        for case, time in cases.items():
            own = times[UNBOUNCED][case].pair
            copies = 0 if impl == UNBOUNCED else time.floor
            records.append(
                {
                    "impl": impl,
                    "mode": case.mode,
                    "size": case.size,
                    "in_flight": case.in_flight,
                    "dir": case.dir,
                    "instructions": round(time.pair - copies),
                    "beyond": round(time.pair - copies - own),
                }
            )
    return records


# One size for each class.
CLASSES = (512, *(2048 << step for step in range(9)))
NODES = {
    "1": [],
    "4": ["--nodes", "1:256M,0:256M,0:256M,0:256M"],
}


def longest(kernel: Kernel, built: Path, step) -> list[dict[str, object]]:
    """How far the longest map and unmap of a class exceed the quickest, by nodes."""
    records = []
    for nodes, options in NODES.items():
        step(f"the longest map and unmap, {nodes} nodes")
        parameters = f"longest=1 sizes={_list(CLASSES)}"
        text = _results(kernel, built, ["--swiotlb", "cc", *options], parameters)
        for line in text.splitlines():
            size, map_instructions, unmap_instructions = map(int, line.split())
            records.append(
                {
                    "nodes": int(nodes),
                    "size": size,
                    "map": map_instructions,
                    "unmap": unmap_instructions,
                }
            )
    return records
