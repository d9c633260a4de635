# SPDX-License-Identifier: GPL-2.0
"""What still works when everything has been mapped, in interrupts and on all CPUs."""

import dma
import pytest
import vm

# With a cap, slots run out.
APPEND = f"cc_swiotlb.max=32M {vm.LOG_SPACE}"
CAPPED = ("--append", APPEND, "--cpus", "4", "--blk", "0")
# Most of this memory has no 32-bit address.
LARGE = ("--guest", "plain", "--mem", "8G", "--blk", "0")

# Case, the guest for it, and the fault that it must find.
CASES = {
    "small_leave_large": (CAPPED, "refuse"),
    "exhausted_with_mask": (CAPPED, "endless"),
    "small_mask_has_enough": (LARGE, "dma_mask"),
}


@vm.once
def _run(module, case: str, *parameters: str) -> dma.Run:
    words = " ".join(("exhaust=1", f"test={case}", *parameters))
    return dma.Run(module, words, *CASES[case][0], timeout=240)


@pytest.mark.parametrize("case", CASES)
def test_case(case, module):
    """The case passes; the comment above it in exhaust.c says what it asks for."""
    _run(module, case).require(case)


def test_legacy_pool_first(module):
    """The legacy pool was used before the reserves of larger classes."""
    result = _run(module, "small_leave_large").result
    assert result.count("fallback_legacy") > 0, result.tail()
    assert result.count("misuse") == 0
    assert result.count("shared_bytes") <= 32 << 20


def test_swiotlb_serves_small_masks(module):
    """The control: mainline has as much for a device of 32 bits."""
    case = "small_mask_has_enough"
    options = (*LARGE, "--swiotlb", "legacy")
    dma.Run(module, f"exhaust=1 test={case}", *options, timeout=240).require(case)


@pytest.mark.parametrize("case", CASES)
def test_found(case, module):
    """The case fails when it should."""
    found = _run(module, case, "quick=1", f"fault={CASES[case][1]}").tests.get(case)
    assert found, "the case did not run"
    assert not found.passed, "the case passed all the same"


def test_every_case_is_run():
    """No case is missing from the table above."""
    assert set(dma.EXHAUST_CASES) == set(CASES)
