# SPDX-License-Identifier: GPL-2.0
"""Looks for a sequence of calls that upsets the allocator, seed after seed.

Each seed has a kernel of its own, which runs as a process at the machine's speed:
torture, with sizes and offsets at their edges, checks each byte against a model
while memory is little, comes and goes.  What fails is kept, with its seed.
"""

import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

from lib import kernel, progress, repository  # noqa: E402
from lib.bench import module, native  # noqa: E402
from lib.failure import Failure  # noqa: E402

TORTURE = repository.TESTING / "torture"
FLAVOUR = "uml-smp"
SECONDS = 20
# How much is shared to begin with, and at most; each seed uses one of these. None has
# from_device=zero: here lent memory is bounced as well, and torture does not expect
# bouncing to zero it.
LIMITS = (
    "cc_swiotlb.watermark=2M cc_swiotlb.max=8M",
    "cc_swiotlb.watermark=2M",
    "cc_swiotlb.watermark=8M cc_swiotlb.max=64M",
)

INIT = """#!/busybox sh
/busybox mkdir -p /bin /tmp
/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t debugfs none /sys/kernel/debug
mount -t tmpfs none /tmp
sh /torture/run -m /{module} {seconds} seed={seed} {parameters} >/said 2>&1
dmesg >>/said
poweroff -f
"""


def _try(
    machine: native.Machine, seed: int, seconds: int, more: str, root: Path
) -> str:
    """Runs one seed; returns what the torture and the kernel have said."""
    init = INIT.format(
        module=machine.module.name,
        seconds=seconds,
        seed=seed,
        parameters=f"hold=2 cycle=2000 fragment=2 {more}",
    )
    native.furnish(machine, root, init)
    shutil.copytree(TORTURE, root / "torture")
    try:
        console = native.start(machine, root, seconds + 120)
    except Failure as hang:
        # A hang is a finding as well.
        return str(hang)
    said = root / "said"
    return said.read_text(errors="replace") if said.exists() else console


def operations_of(said: str) -> int:
    """The number of operations, if all of it passed."""
    found = re.search(r"^torture: operations: (\d+)$", said, re.M)
    passed = re.search(r"^torture: passed$", said, re.M)
    bad = re.search(r"BUG:|WARNING:|Oops|refcount_t:", said)
    return int(found[1]) if found and passed and not bad else 0


def fuzz(arguments: argparse.Namespace) -> int:
    """Tries seeds until the time is up; returns how many failed."""
    built = kernel.build(FLAVOUR)
    end = time.monotonic() + arguments.minutes * 60
    seed, total, failed = arguments.seed, 0, 0
    with tempfile.TemporaryDirectory(prefix="cc-swiotlb-fuzz-") as name:
        place = module.build(built, Path(name), TORTURE)
        while time.monotonic() < end or seed == arguments.seed:
            limits = LIMITS[seed % len(LIMITS)]
            machine = native.Machine(
                built, place, f"{native.CC} {limits} ncpus=2", "1G"
            )
            with tempfile.TemporaryDirectory(prefix="cc-swiotlb-uml-") as root:
                said = _try(
                    machine, seed, arguments.seconds, arguments.more, Path(root)
                )
            operations = operations_of(said)
            total += operations
            if not operations:
                failed += 1
                kept = arguments.output / f"seed-{seed}"
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(said, encoding="utf-8")
                progress.note(f"seed {seed} FAILED: {kept}")
            else:
                progress.note(f"seed {seed}: {operations} operations, {total} in all")
            seed += 1
    print(f"{seed - arguments.seed} seeds, {total} operations, {failed} failed")
    return failed


def main() -> int:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=10, metavar="N", help="10")
    add("--seed", type=int, default=1, metavar="N", help="where to begin, 1")
    text = f"how long each seed is tried, {SECONDS}"
    add("--seconds", type=int, default=SECONDS, metavar="N", help=text)
    text = "more parameters of the torture module; fault=copy_in has to fail"
    add("--more", default="", metavar="PARAMETERS", help=text)
    output = repository.ROOT / "build" / "fuzz"
    add("--output", type=Path, default=output, metavar="FOLDER", help="build/fuzz")
    try:
        return 1 if fuzz(parser.parse_args()) else 0
    except (Failure, OSError) as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
