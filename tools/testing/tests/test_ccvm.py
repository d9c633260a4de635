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
from lib import console


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
    """The guest has what the contract promises."""
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
    "command,status,word,timeout",
    [
        ("echo c >/proc/sysrq-trigger; sleep 600", vm.PANIC, "panic", 120),
        ("sleep 600", vm.TIMEOUT, "time", 20),
        ("poweroff -f; sleep 600", vm.GONE, "went down", 120),
    ],
    ids=["panic", "time-out", "gone"],
)
def test_statuses(command, status, word, timeout):
    """A guest that does not come to its end has a status of its own."""
    result = vm.run(command, status=status, timeout=timeout)
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
    """A command that succeeds in a guest that complained has failed all the same."""
    result = vm.run(f"echo '{line}' >/dev/kmsg", status=vm.COMPLAINT)
    assert line[:20] in result.stderr


def test_warn_of_a_module(module):
    """A real WARN() counts as much as a message that was written to the log."""
    vm.run(
        f"insmod /host/{module.name} quick=1 fault=warn test=need_sync; true",
        *("--add", str(module)),
        status=vm.COMPLAINT,
    )


NODES = "/sys/devices/system/node/node"


@pytest.mark.parametrize(
    "nodes,cpus,mebibytes",
    [
        ("2", ["0-1", "2-3"], [512, 512]),
        ("4:512M,0:512M", ["0-3", ""], [512, 512]),
        ("2:0M,2:1G", ["0-1", "2-3"], [0, 1024]),
    ],
)
def test_nodes(nodes, cpus, mebibytes):
    """--nodes: which CPUs and how much memory each has, and shared memory works."""
    result = vm.run(
        f"cat {NODES}[01]/cpulist; awk '/MemTotal/ {{ print $4 }}' {NODES}[01]/meminfo;"
        " dd if=/dev/nvme0n1 bs=64k count=16 iflag=direct 2>/dev/null | tr -d '\\0' |"
        " wc -c",
        *("--cpus", "4", "--mem", "1G", "--nodes", nodes, "--blk", "0"),
    )
    *said, left = result.stdout.split("\n")[:-1]
    assert said[:2] == cpus
    # The kernel keeps some for itself, and a node may be too small for it.
    for kibibytes, expected in zip(map(int, said[2:]), mebibytes, strict=True):
        assert expected * 0.9 <= kibibytes / 1024 <= expected
    assert left == "0", "an empty disk is not"


@pytest.mark.parametrize(
    "options,word",
    [
        (("--nodes", "3", "--cpus", "4"), "4 CPUs cannot be shared out evenly"),
        (("--nodes", "2", "--mem", "1022M"), "1022M of memory cannot be shared out"),
        (("--nodes", "0"), "from 1 to 8"),
        (("--nodes", "two"), "the form is"),
        (("--nodes", "1:512M"), "from 2 to 8"),
        (("--nodes", "2:1G,1:0"), "2 CPUs"),
        (("--nodes", "2:1G,0:2M"), "1024M"),
        (("--nodes", "2:1G,0:0"), "CPUs or memory"),
        (("--nodes", "1:1023,1:1"), "multiples of 2M"),
    ],
)
def test_nodes_refused(options, word):
    """Nodes that are impossible are refused, and the message says why."""
    result = vm.run("true", *options, status=vm.SETUP)
    assert f"--nodes {options[1]}: " in result.stderr and word in result.stderr


@pytest.mark.parametrize("device", ["--net", "--scsi 1", "--ahci 1"])
def test_debug_kernel_has_few_drivers(device):
    """A user who asks for a device that the kernel has no driver for is told so."""
    option, *number = device.split()
    result = vm.run("true", "--debug", option, *number, status=vm.SETUP)
    assert f"{option}: the debug kernel has no driver for it" in result.stderr


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


def test_warning_behind_the_end():
    """A warning about CPUs that are stopping is ignored; nothing else is overlooked."""
    seen = console.Console()
    seen.feed(b"[    1.3] WARNING: at f\n[    1.4] reboot: Power down\n")
    seen.feed(b"[    1.5] WARNING: at set_task_cpu+0x96\n[    1.6] Call Trace:\n")
    seen.feed(b"[    1.7] Kernel panic - not syncing: f\n")
    assert seen.complaints == ["[    1.3] WARNING: at f"]
    assert seen.panic


@pytest.mark.parametrize("times,status", [(1, 0), (3, 125)])
def test_qemu_gives_up(times, status):
    """A QEMU that gives up while the guest boots is started again, not for ever."""
    words = [str(vm.CCVM), "run", "--timeout", "240", "echo fine"]
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
