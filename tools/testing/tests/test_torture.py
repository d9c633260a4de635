# SPDX-License-Identifier: GPL-2.0
"""Torture: everything at once, for a while, and the sums afterwards.

Each check is also seen to fail: those of the module, and those of the script that runs
it in the guest.
"""

import re

import pytest
import vm

FOLDER = str(vm.TESTING / "torture")
SCRIPT = "sh /host/torture/run"
STATS = "/sys/module/cc_swiotlb_torture/parameters/stats"
VARIANTS = {
    "coco-cc": ("--guest", "coco", "--swiotlb", "cc"),
    "coco-legacy": ("--guest", "coco", "--swiotlb", "legacy"),
    "plain-cc": ("--guest", "plain", "--swiotlb", "cc"),
    "plain-legacy": ("--guest", "plain", "--swiotlb", "legacy"),
    "zero": ("--append", "cc_swiotlb.from_device=zero"),
}
PARAMETERS = {"zero": "zero=1"}

# Faults that the module imitates, and its message about each.
FAULTS = {
    "unbounced": "is not bounced",
    "align": "does not keep min_align_mask",
    "page": "is not page aligned",
    "boundary": "crosses the boundary",
    "dma_mask": "is beyond the DMA mask",
    "need_sync": "is said to need no sync",
    "overlap": "overlaps another mapping",
    "copy_in": "mapped.*: shared: byte",
    "copy_back": "unmapped.*: original: byte",
    "to_device": "unmapped.*: original: byte 0 ",
    "skip": "unmapped: original: byte 0 ",
    "overrun": "unmapped.*: guard after the original",
    "underrun": "unmapped.*: guard before the original",
    "sync_cpu": "synced for the CPU: original: byte",
    "sync_device": "synced for the device: shared: byte",
    "length_cpu": "synced for the CPU: (original: byte|guard after)",
    "length_device": "synced for the device: shared: byte",
    "scribble": "before the unmap: shared: byte",
    "held": "held: shared: byte",
    "storm": "before the unmap: shared: byte 0 ",
    "list": "list unmapped: original: byte 0 ",
    "irqs_off": "unmapped: original: byte",
    "softirq": "unmapped: original: byte",
    "hardirq": "unmapped: original: byte",
    "remote": "unmapped: original: byte",
    "tick": "unmapped in a timer: original: byte",
    "refused": "refused: original: byte 0 ",
    "oversize": "[0-9]+ bytes were mapped",
    "lost": "[0-9]+ mappings were made, [0-9]+ undone",
    "lent": "lent: shared: byte",
}

# Faults that the module does not notice, and the script's message about each.
SCRIPT_FAULTS = {
    "leak": "FAILED: in use: ",
    "twice": "FAILED: misuse: ",
    "blind": "FAILED: refused: ",
    "kept": "FAILED: lent: ",
    "copy_back": "FAILED: the module found an error",
}

# On a busy host a CPU's delay loop may never be calibrated.
CPUS = ("--cpus", "4", "--append", "lpj=20000000")

# The least number of operations in the debug kernel.
OPERATIONS = 50000

# Faults that are injected while it runs.
INJECTED = ("share", "both", "unshare", "block", "page", "slab", "idle", "cap")


def _counts(text: str) -> dict[str, int]:
    """The counters that the module has shown."""
    return {
        name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.M)
    }


def _require_passed(result: vm.Result) -> None:
    assert "\ntorture: passed" in result.stdout, result.tail()
    assert result.status == 0, result.tail()


def _fragments(variant: str) -> bool:
    """Whether memory is fragmented: swiotlb complains if that keeps it from growing."""
    return not variant.endswith("legacy")


def _left_out(variant: str) -> list[str]:
    """The counters of things that the module cannot do there."""
    left_out = [] if _fragments(variant) else ["fragmented"]
    if variant not in ("coco-cc", "zero"):
        left_out.append("lent_mapped")
    return left_out


def _require_all_kinds(result: vm.Result, *left_out: str) -> None:
    """The module has done everything that it can do, except for the named things."""
    counts = _counts(result.stdout)
    never = [name for name, count in counts.items() if not count]
    assert len(counts) > 15, result.tail()
    # Memory that could not be lent, and is bounced when it is mapped, is rare.
    rare = {"no_memory", "refused", "lent_bounced"}
    assert not set(never) - rare - {*left_out}, never


@vm.once
def _run(variant: str, module) -> vm.Result:
    parameters = "hold=5 cycle=5000 " + PARAMETERS.get(variant, "")
    if _fragments(variant):
        parameters += " fragment=3"
    enough = ",".join(["1", "refused", *_left_out(variant)])
    command = f"{SCRIPT} -cme {enough} /host/{module.name} 12 {parameters}"
    return vm.run(
        f"{vm.wait_ready()}; {command}",
        *(*CPUS, "--add", FOLDER, "--add", str(module), *VARIANTS[variant]),
        timeout=120,
        status=None,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_short(variant, torture_module):
    """Some seconds of it, with CPUs that come and go."""
    result = _run(variant, torture_module)
    _require_passed(result)
    _require_all_kinds(result, *_left_out(variant))


@vm.once
def _run_debug(module) -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}
{SCRIPT} -cfme {OPERATIONS} /host/{module.name} 120 hold=60 tick=10 fragment=4
echo "torture: $?"
grep -h . /sys/kernel/debug/dma-api/disabled
{vm.show("watermark", f"{vm.PARAMETERS}/watermark")}
{vm.counters()}
""",
        # The watermark is small, so that mappings are refused now and then.
        *("--debug", *CPUS[:-1], f"{CPUS[-1]} cc_swiotlb.watermark=2M"),
        *("--plug", "256M@60"),
        *("--add", FOLDER, "--add", str(module)),
        timeout=400,
        status=None,
    )


class TestDebug:
    """Two minutes, or more on a slow machine, in the debug kernel, with faults injected."""

    def test_passed(self, debug_torture_module):
        """No byte is wrong, the sums are right, the kernel has no complaint."""
        result = _run_debug(debug_torture_module)
        said = vm.lines(result.console, "DMA-API: ")
        assert said and "debugging enabled" in said[-1], said
        _require_passed(result)

    def test_all_kinds(self, debug_torture_module, capsys):
        """The module has done everything that it can do."""
        result = _run_debug(debug_torture_module)
        _require_all_kinds(result)
        counts = _counts(result.stdout)
        with capsys.disabled():
            print(f"\n{counts['ops']} operations, {counts['refused']} refused")
        assert counts["ops"] >= OPERATIONS
        assert counts["refused"] > 0

    def test_all_faults(self, debug_torture_module):
        """Each kind of fault was injected."""
        result = _run_debug(debug_torture_module)
        said = vm.lines(result.stdout, "^torture: injected:")
        assert said, result.tail()
        for name in INJECTED:
            assert re.search(rf" {name}=[1-9]", said[0]), said[0]

    def test_hotplug(self, debug_torture_module):
        """CPUs went away and came back."""
        result = _run_debug(debug_torture_module)
        said = re.search(r"CPUs offline: (\d+) times", result.stdout)
        assert said and int(said.group(1)) > 10, result.tail()

    def test_memory_hotplug(self, debug_torture_module):
        """Memory was added in the middle of it."""
        result = _run_debug(debug_torture_module)
        said = re.search(r"memory: (\d+) MiB, then (\d+) MiB", result.stdout)
        assert said and int(said[2]) == int(said[1]) + 256, result.tail()

    def test_command_line_wins(self, debug_torture_module):
        """A parameter on the command line counts more than a default of Kconfig."""
        result = _run_debug(debug_torture_module)
        assert result.section("watermark").strip() == "2M"


@vm.once
def _faults(module) -> dict[str, str]:
    """The kernel log of each fault: one guest for all."""
    commands = [
        f"""
echo 'fault {fault}' >/dev/kmsg
insmod /host/{module.name} fault={fault} seconds={seconds} cycle=1000 hold=1 storm=24
while grep -q running {STATS}; do sleep 0.05; done
rmmod cc_swiotlb_torture
"""
        # A run ends when its fault is found. On a busy machine it may take long until a
        # mapping is refused.
        for fault, seconds in [("none", 4), *((fault, 30) for fault in FAULTS)]
    ]
    result = vm.run(
        # So little memory that mappings are refused.
        f"{vm.wait_ready()}; echo 2M >{vm.PARAMETERS}/max;"
        + "".join(commands)
        + vm.log(),
        *("--nvme", "0", "--blk", "0", "--add", str(module)),
        *("--append", vm.LOG_SPACE),
        timeout=300,
    )
    parts = re.split(r"^.* fault (\w+)$", result.section("log"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_found(fault, torture_module):
    """The module finds the fault, says what it is, and ends."""
    said = _faults(torture_module)[fault]
    error = vm.lines(said, "cc_swiotlb_torture: ERROR: ")
    assert len(error) == 1, said[-2000:]
    assert re.search(FAULTS[fault], error[0]), error[0]
    assert "cc_swiotlb_torture: End of test: FAILURE" in said


def test_nothing_found(torture_module):
    """Without a fault it finds none."""
    said = _faults(torture_module)["none"]
    assert "cc_swiotlb_torture: End of test: SUCCESS" in said, said[-2000:]
    assert not vm.lines(said, "ERROR")


@vm.once
def _script_faults(module) -> vm.Result:
    commands = "".join(
        f"echo '=== {fault}'; {SCRIPT} /host/{module.name} 3 fault={fault} tick=0\n"
        'echo "status: $?"\n'
        for fault in SCRIPT_FAULTS
    )
    return vm.run(
        f"{vm.wait_ready()}\n{commands}",
        *("--add", FOLDER, "--add", str(module)),
        timeout=120,
    )


@pytest.mark.parametrize("fault", SCRIPT_FAULTS)
def test_script_finds(fault, torture_module):
    """The script finds what the module cannot."""
    said = _script_faults(torture_module).section(fault)
    assert SCRIPT_FAULTS[fault] in said, said
    assert "status: 1" in said, said


def test_script_finds_a_failure(debug_torture_module):
    """The script finds conversions that fail without its knowledge."""
    functions = "/sys/kernel/debug/fail_function"
    more = "/sys/module/cc_swiotlb_torture/parameters/more"
    result = vm.run(
        f"""
{vm.wait_ready()}
echo 0 >{functions}/verbose
echo cc_swiotlb_share >{functions}/inject
echo cc_swiotlb_unshare >{functions}/inject
echo 2 >{functions}/times
# What was wanted is given back; that fails, and so does sharing it once more.
(
	until [ -e {more} ]; do sleep 0.1; done
	echo 64M >{vm.PARAMETERS}/watermark; sleep 2
	echo 100 >{functions}/probability; echo 4M >{vm.PARAMETERS}/watermark
	while [ "$(cat {functions}/times)" != 0 ]; do sleep 0.1; done
	echo 0 >{more}
) &
{SCRIPT} /host/{debug_torture_module.name} 10 more=1
""",
        *("--debug", "--add", FOLDER, "--add", str(debug_torture_module)),
        timeout=120,
        status=1,
    )
    assert "FAILED: conversions: 2 failed, 0 were injected" in result.stdout, (
        result.tail()
    )
