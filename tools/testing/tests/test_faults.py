# SPDX-License-Identifier: GPL-2.0
"""Each case of the DMA API test fails when the thing it tests is broken.

The module imitates a broken implementation; see Documentation/testing.rst. It runs over
swiotlb, so that only the test itself is tested here.
"""

import re

import dma
import ktap
import pytest
import vm

# Fault, and the cases that must find it.
FAULTS = {
    "unbounced": ["sizes", "offsets"],
    "copy_in": ["sizes", "large_offsets", "irqs_off"],
    "to_device": ["sizes", "offsets"],
    "copy_back": ["sizes", "sync_random_range", "many", "parallel"],
    "overrun": ["sizes", "offsets", "parallel", "many", "softirq"],
    "underrun": ["sizes", "sync_every_range", "surroundings"],
    "leak": ["surroundings", "coherent"],
    "offset": ["sync_every_range", "sync_random_range"],
    "length": ["sync_every_range", "sync_random_range"],
    "skip": ["skip_cpu_sync"],
    "align": ["offsets", "large_offsets"],
    "boundary": ["seg_boundary"],
    "overlap": ["many", "scatterlist", "coherent_atomic"],
    "remote": ["other_cpu", "parallel"],
    "atomic": ["hardirq", "softirq", "irqs_off", "other_cpu"],
    "oversize": ["oversize", "scatterlist_oversize"],
    "refuse": ["sizes", "oversize", "churn"],
    "need_sync": ["need_sync", "no_mask_set"],
    "sync_back": ["sync_in_turn"],
    "dma_mask": ["dma_mask"],
    "warn": ["need_sync"],
}

PAIRS = [(fault, case) for fault, cases in FAULTS.items() for case in cases]

# Cases that need lent memory, which swiotlb does not have.
LENT = [("copy_back", "lent_mapping")]


@vm.once
def _results(module, *options: str) -> dict[tuple[str, str], bool]:
    """Which cases passed with which fault: one guest for all."""
    commands = []
    for fault, case in PAIRS if options else LENT:
        commands.append(f"echo 'fault {fault} {case}' >/dev/kmsg")
        commands.append(
            f"insmod /host/{module.name} quick=1 fault={fault} test={case} 2>/dev/null"
            f" && {{ rmmod cc_swiotlb_dma_test; echo 'loaded {fault} {case}'; }}"
        )
    result = vm.run(
        "\n".join([*commands, vm.log()]),
        *(*options, "--nvme", "0", "--blk", "0"),
        *("--allow-warnings", "--add", str(module), "--append", vm.LOG_SPACE),
        timeout=300,
    )
    found = {}
    parts = re.split(r"^.*fault (\w+) (\w+)$", result.section("log"), flags=re.M)
    for fault, case, said in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        tests = [test for test in ktap.parse(said) if test.name == case]
        if tests:
            # busybox's insmod tries again when loading failed: there may be two.
            found[fault, case] = tests[0].passed
            loaded = f"loaded {fault} {case}" in result.stdout
            assert loaded == tests[-1].passed, f"{fault} {case}: insmod disagrees"
    return found


@pytest.mark.parametrize("fault,case", PAIRS + LENT)
def test_found(fault, case, module):
    """The case fails, and so does insmod."""
    over_swiotlb = ("--guest", "plain", "--swiotlb", "legacy")
    results = _results(module, *(() if (fault, case) in LENT else over_swiotlb))
    assert (fault, case) in results, "the case did not run"
    assert not results[fault, case], "the case passed all the same"


def test_every_case_can_fail():
    """No case is missing from the table above."""
    assert set(dma.CASES) == {case for _, case in PAIRS + LENT}
