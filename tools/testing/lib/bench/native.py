# SPDX-License-Identifier: GPL-2.0
"""Runs the benchmark module in User Mode Linux, a kernel that is a process.

It shows what the code costs on this machine's CPU.  It does not show what
hypervisors, interrupts and devices cost, and there are no patched jumps and no
inlined helpers in it, which the kernel of a real guest has.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from lib import initramfs
from lib.bench import module
from lib.failure import Failure
from lib.kernel import Kernel

CC = "cc_swiotlb.enable=1"
LEGACY = "cc_swiotlb.enable=0"
IMPLS = {"cc": CC, "legacy-dynamic": LEGACY}

# The only command that runs. The root folder is a folder of the host.
INIT = """#!/busybox sh
/busybox mount -t proc none /proc
/busybox mount -t sysfs none /sys
/busybox mount -t debugfs none /sys/kernel/debug
/busybox insmod /{module}.ko $(/busybox cat /parameters) &&
	/busybox cat {results} >/results
/busybox cat /sys/kernel/debug/cc_swiotlb/stats >/stats
/busybox poweroff -f
"""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kernel with the benchmark module, and how to start it."""

    kernel: Kernel
    module: Path
    arguments: str
    memory: str = "2G"


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of one run."""

    times: dict[module.Case, module.Time]
    stats: dict[str, str]


def furnish(machine: Machine, root: Path, init: str) -> None:
    """Puts into a root folder what `init` needs: busybox and the module."""
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir()
    shutil.copyfile(initramfs.busybox(), root / "busybox")
    shutil.copyfile(machine.module, root / machine.module.name)
    (root / "init").write_text(init)
    for name in ("busybox", "init"):
        (root / name).chmod(0o755)


def start(machine: Machine, root: Path, timeout_s: float) -> str:
    """Runs the kernel to its end, with `init` of a root folder; returns its console."""
    words = [str(machine.kernel.image), f"mem={machine.memory}", "seccomp=on"]
    words += ["root=/dev/root", "rootfstype=hostfs", f"rootflags={root}", "rw"]
    words += ["init=/init", "con=null", "con0=null,fd:1", "panic=1", "swiotlb=force"]
    words += machine.arguments.split()
    # The kernel's memory is a file there, which it must be able to execute.
    environment = {**os.environ, "TMPDIR": "/dev/shm"}
    with tempfile.TemporaryFile() as console:
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout_s)
            why = ""
        except subprocess.TimeoutExpired:
            why = f"\nthe kernel did not end within {timeout_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        console.seek(0)
        text = console.read().decode(errors="replace")
    if why:
        raise Failure(text[-3000:] + why)
    return text


def run(machine: Machine, parameters: str, timeout_s: float = 300) -> Result:
    """Loads the module with these parameters in a kernel of its own."""
    with tempfile.TemporaryDirectory(prefix="cc-swiotlb-uml-") as name:
        root = Path(name)
        init = INIT.format(module=module.NAME, results=module.RESULTS)
        furnish(machine, root, init)
        (root / "parameters").write_text(parameters)
        console = start(machine, root, timeout_s)
        results = root / "results"
        if not results.exists() or not results.stat().st_size:
            raise Failure(f"{console[-3000:]}\nthe benchmark module left no results")
        times = module.parse(results.read_text(encoding="ascii"))
        stats = (root / "stats").read_text(encoding="ascii")
    return Result(times, dict(line.split(": ") for line in stats.splitlines()))


def measure(
    machines: dict[str, Machine], parameters: dict[str, str], rounds: int, step
) -> dict[str, dict[module.Case, module.Summary]]:
    """Runs all machines in turn, `rounds` times; returns their cases by name."""
    seen: dict[str, list[dict[module.Case, module.Time]]] = {}
    for number in range(rounds):
        for name, machine in machines.items():
            step(f"round {number + 1} of {rounds}, {name}")
            result = run(machine, parameters[name])
            if int(result.stats.get("misuse", 0)):
                raise Failure(f"{name}: the benchmark misuses the DMA API")
            seen.setdefault(name, []).append(result.times)
    return {name: module.summarise(each) for name, each in seen.items()}
