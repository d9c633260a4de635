# SPDX-License-Identifier: GPL-2.0
"""The untrusted host: block devices in processes of their own, over vhost-user.

They are handed the guest's shared memory and nothing else, and some are hostile:
see tools/testing/untrusted-host.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lib import repository
from lib.failure import Failure

if TYPE_CHECKING:
    from lib.machine import Options

SOURCES = repository.TESTING / "untrusted-host"
START_S = 60
END_S = 60


def _build() -> str:
    """The program, built if these sources were not built before."""
    done = subprocess.run(
        [repository.ROOT / "tools" / "build-rust", SOURCES],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure("the untrusted host cannot be built")
    return done.stdout.strip()


class Host:
    """All disks of a guest that have processes of their own."""

    def __init__(self, options: "Options"):
        self._options = options
        self._processes: list[subprocess.Popen] = []

    def start(self, stack: contextlib.ExitStack, disks: Path) -> Path | None:
        """Starts a process for each disk; gives the folder with their sockets."""
        options = self._options
        if not options.vhost_blk:
            return None
        program = _build()
        # The path of a socket must be short.
        folder = Path(tempfile.mkdtemp(prefix="ccvm-"))
        (disks.parent / "vhost").symlink_to(folder)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        modes = options.vhost_modes
        for index in range(options.vhost_blk):
            words = [program, "--socket", str(folder / f"vhost{index}")]
            words += ["--file", str(disks / f"vhost_blk{index}")]
            words += ["--mode", modes[min(index, len(modes) - 1)]]
            words += ["--seed", str(options.vhost_seed + index)]
            if options.vhost_window:
                words += ["--window", str(options.vhost_window)]
            if options.vhost_seek:
                words += ["--seek", options.vhost_seek]
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            self._processes.append(process)
        end = time.monotonic() + START_S
        for index, process in enumerate(self._processes):
            while not (folder / f"vhost{index}").exists():
                if process.poll() is not None:
                    raise Failure(f"untrusted host: {process.communicate()[1]}")
                if time.monotonic() > end:
                    raise Failure("the untrusted host did not start")
                time.sleep(0.02)
        return folder

    def end(self) -> tuple[list[str], list[str]]:
        """The report of each disk after the end of QEMU, and all complaints."""
        reports, complaints = [], []
        end = time.monotonic() + END_S
        for index, process in enumerate(self._processes):
            left = max(0.1, end - time.monotonic())
            try:
                said, errors = process.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                complaints.append(f"vhost-blk {index} does not end")
                continue
            reports.append(f"vhost-blk {index}: {said.strip()}")
            if process.returncode:
                complaints.append(f"vhost-blk {index}: {_complaint(said, errors)}")
        return reports, complaints


def _complaint(said: str, errors: str) -> str:
    """Why a disk's process has failed, in words."""
    try:
        report = json.loads(said)
    except ValueError:
        return errors.strip() or "no report"
    found = report["reports"] + [report["error"]] * bool(report["error"])
    return f"{report['outside']} times outside shared memory: " + "; ".join(found)


def qemu(options: "Options", sockets: Path | None) -> tuple[list[str], list[str]]:
    """QEMU's arguments for the disks, and devices to be placed on the PCI bus."""
    words, devices = [], []
    if options.vhost_blk:
        # Otherwise the firmware, which knows of no shared memory, looks at them.
        words += ["-boot", "strict=on"]
    for index in range(options.vhost_blk):
        path = f"{sockets}/vhost{index}"
        words += ["-chardev", f"socket,id=vhost{index},path={path}"]
        devices.append(f"vhost-user-blk-pci,chardev=vhost{index},num-queues=1")
    return words, devices
