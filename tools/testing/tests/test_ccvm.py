# SPDX-License-Identifier: GPL-2.0
"""The guest runner: outside checks rely on what it says."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import vm


def test_status_and_streams(tmp_path):
    """The command's status, output and errors, and the files of --add."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inner").write_text("inside")
    single = tmp_path / "single"
    single.write_text("alone")
    result = vm.run(
        "echo out; echo err >&2; cat /host/folder/inner /host/single; exit 42",
        *("--add", str(folder), "--add", str(single)),
        status=42,
    )
    assert result.stdout == "out\ninsidealone"
    assert "err" in result.stderr
    assert "Linux version" not in result.stdout
    assert "Linux version" in result.console


def test_quoting():
    """Several words are one command; quotes arrive."""
    result = vm.run("printf '%s|' 'a b' \"c  d\"; printf '\\001\\377' | wc -c")
    assert result.stdout == "a b|c  d|2\n"


def test_guest_has_tools():
    """What the contract promises is there."""
    result = vm.run(
        "for t in busybox fio mkfs.xfs mkfs.ext4 mount; do"
        " which $t || echo no $t; done;"
        " fio --enghelp=libaio >/dev/null && echo libaio;"
        " ls -1d /sys/kernel/tracing/events /sys/kernel/debug/swiotlb /sys/module;"
        " ls -1 /dev/nvme0n1 /dev/vda; nproc; id -u"
    )
    assert "no " not in result.stdout
    assert "libaio" in result.stdout
    assert result.stdout.endswith("/dev/nvme0n1\n/dev/vda\n2\n0\n")


@pytest.mark.parametrize(
    "command,status,word",
    [
        ("echo c >/proc/sysrq-trigger; sleep 60", vm.PANIC, "panic"),
        ("sleep 60", vm.TIMEOUT, "time"),
        ("poweroff -f; sleep 60", vm.GONE, "went down"),
    ],
    ids=["panic", "time-out", "gone"],
)
def test_statuses(command, status, word):
    """A guest that does not come to its end has a status of its own."""
    result = vm.run(command, status=status, timeout=20)
    assert word in result.stderr
    assert "  | " in result.stderr, "the end of the console is missing"


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 1 at kernel/dma/x.c:1 f+0x1/0x2",
        "BUG: KASAN: slab-out-of-bounds in f+0x1/0x2",
        "WARNING: possible circular locking dependency detected",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
    ],
    ids=["warn", "kasan", "lockdep", "lockup"],
)
def test_complaint(line):
    """A command that ends well in a guest that complained has not."""
    result = vm.run(f"echo '{line}' >/dev/kmsg", status=vm.COMPLAINT)
    assert line[:20] in result.stderr


def test_warn_of_a_module(module):
    """A real WARN() counts as much as one that is written."""
    vm.run(
        f"insmod /host/{module.name} quick=1 fault=warn test=need_sync; true",
        *("--add", str(module)),
        status=vm.COMPLAINT,
    )


def test_latency():
    """--latency-ms holds each request: 20 requests of 50 ms take a second."""
    result = vm.run(
        "cat /proc/uptime;"
        " dd if=/dev/nvme0n1 of=/dev/null bs=4k count=20 iflag=direct 2>/dev/null;"
        " cat /proc/uptime",
        *("--latency-ms", "50", "--blk", "0"),
    )
    before, after = (float(line.split()[0]) for line in result.stdout.splitlines())
    assert after - before >= 1.0, result.stdout


def _qemu(ccvm: int) -> int:
    """The QEMU that a ccvm has started, 0 if there is none yet."""
    children = Path(f"/proc/{ccvm}/task/{ccvm}/children").read_text().split()
    for child in children:
        with contextlib.suppress(FileNotFoundError):
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if "qemu-system" in words[0] and "-kernel" in words:
                return int(child)
    return 0


@pytest.mark.parametrize("times,status", [(1, 0), (3, 125)])
def test_qemu_gives_up(times, status):
    """A QEMU that gives up while the guest boots is started again, not for ever."""
    words = [str(vm.CCVM), "run", "--timeout", "60", "echo fine"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:
        killed = set()
        while process.poll() is None and len(killed) < times:
            qemu = _qemu(process.pid)
            if qemu and qemu not in killed:
                os.kill(qemu, signal.SIGABRT)
                killed.add(qemu)
            time.sleep(0.02)
        output, complaints = process.communicate()
    assert process.returncode == status, complaints
    assert complaints.count("gave up before the command began") == times
    assert output == ("fine\n" if times == 1 else "")
