# SPDX-License-Identifier: GPL-2.0
"""Data races: everything at once in a kernel in which KCSAN watches C and Rust.

`make check-races` runs this, `make check` does not: it needs a kernel of its own.
"""

import re
import subprocess

import pytest
import vm

FLAVOUR = "kcsan"
TORTURE = str(vm.TESTING / "torture")
SECONDS = 120
SEPARATOR = "=" * 66
# How deep in a stack an access can be ours: inlined, or a helper that was called.
DEPTH = 4


def _reports(log: str) -> list[str]:
    """The reports of KCSAN, without time stamps."""
    log = re.sub(r"^\[ *\d+\.\d+\] ", "", log, flags=re.M)
    parts = log.split(SEPARATOR)
    return [part for part in parts if part.lstrip().startswith("BUG: KCSAN")]


def _stacks(report: str) -> list[list[str]]:
    """The functions of each stack, innermost first."""
    stacks = []
    for line in report.splitlines():
        if re.match(r"(write|read|.*(write|read)) .*(to|of) ", line):
            stacks.append([])
        elif stacks and (function := re.match(r" (\S+)\+0x", line)):
            stacks[-1].append(function.group(1))
    return stacks


def _is_ours(report: str) -> bool:
    """Whether one of the accesses was made by our code."""
    return any(
        "cc_swiotlb" in function
        for stack in _stacks(report)
        for function in stack[:DEPTH]
    )


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The torture for this kernel."""
    return vm.build_module("torture", tmp_path_factory.mktemp("races"), FLAVOUR)


@vm.once
def _run(module) -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}
echo on >/sys/kernel/debug/kcsan
for disk in nvme0n1 nvme1n1; do
	fio --name=n --filename=/dev/$disk --direct=1 --thread --ioengine=libaio \\
		--iodepth=16 --numjobs=4 --rw=randrw --bsrange=512-256k --size=64M \\
		--time_based --runtime=20 >/tmp/$disk 2>&1 &
done
wait
sh /host/torture/run -cm /host/{module.name} {SECONDS} hold=20 cycle=5000 fragment=7
echo "torture: $?"
echo '=== kcsan'; cat /sys/kernel/debug/kcsan
echo '=== log'; dmesg
{vm.counters()}
""",
        *("--flavour", FLAVOUR, "--allow-warnings", "--cpus", "4", "--mem", "1G"),
        *("--append", f"lpj=20000000 cc_swiotlb.watermark=2M {vm.LOG_SPACE}"),
        *("--add", TORTURE, "--add", str(module)),
        *("--nvme", "2", "--blk", "1"),
        timeout=SECONDS + 400,
    )


def test_rust_is_watched():
    """Plain accesses of the crate are told to KCSAN, as those of C are."""
    crate = vm.kdir(FLAVOUR) / "kernel/dma/cc_swiotlb/cc_swiotlb.o"
    found = subprocess.run(
        ["nm", "-u", crate],
        capture_output=True,
        check=True,
        text=True,
    )
    for name in ("__tsan_read8", "__tsan_write8"):
        assert name in found.stdout.split(), name


def test_load_passed(module):
    """The load did everything that it should, and watchpoints were set meanwhile."""
    result = _run(module)
    assert "torture: passed" in result.stdout, result.tail()
    watched = re.search(r"^setup_watchpoints: (\d+)$", result.section("kcsan"), re.M)
    assert watched and int(watched.group(1)) > 10_000, result.section("kcsan")


def test_no_race_is_ours(module):
    """No access that races is one of the allocator, its thread or its hooks."""
    found = _reports(_run(module).section("log"))
    print(f"{len(found)} reports of the rest of the kernel")
    ours = [report for report in found if _is_ours(report)]
    assert not ours, "\n".join(ours)


def test_reports_are_read():
    """Reports are told apart by the functions that made the accesses."""
    report = """
BUG: KCSAN: data-race in {0} / rb_next

write to 0xffff8880 of 8 bytes by task 75 on cpu 1:
 {0}+0x1/0x2
 worker+0x1/0x2

read to 0xffff8880 of 8 bytes by interrupt on cpu 0:
 rb_next+0x1/0x2
 tick+0x1/0x2
"""
    stamped = "".join(f"[    1.5] {line}\n" for line in report.splitlines())
    log = f"[    1.0] x\n[    1.4] {SEPARATOR}\n{stamped}[    1.6] {SEPARATOR}\n"
    assert len(_reports(log.format("a"))) == 1
    assert not any(map(_is_ours, _reports(log.format("a"))))
    ours = log.format("_RNvNtCs1_10cc_swiotlb4pool4take")
    assert [*map(_is_ours, _reports(ours))] == [True]
