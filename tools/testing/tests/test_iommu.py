# SPDX-License-Identifier: GPL-2.0
"""A device that is not trusted, behind an IOMMU: dma-iommu's own way to bounce."""

import dma
import pytest
import vm

MACHINE = (
    *("--guest", "plain", "--blk", "0", "--nvme", "0"),
    *("--append", f"intel_iommu=on {vm.LOG_SPACE}"),
    *("--qemu-append", "-device intel-iommu -device edu"),
)

# Case, and the faults that it must find.
CASES = {
    "untrusted": ("unbounced", "leak", "align"),
    "linked": ("copy_back",),
}
PAIRS = [(case, fault) for case, faults in CASES.items() for fault in faults]


@vm.once
def _run(module, swiotlb: str, parameters: str) -> dma.Run:
    return dma.Run(
        module, f"iommu=1 {parameters}", *MACHINE, "--swiotlb", swiotlb, timeout=200
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("swiotlb", ["cc", "legacy"])
def test_case(swiotlb, case, module):
    """Nothing beside a mapping is seen or changed, whoever bounces."""
    _run(module, swiotlb, "").require(case)


def test_pools_were_used(module):
    """cc_swiotlb served the cases, and has everything back."""
    result = _run(module, "cc", "").result
    assert result.count("mapped") > 2000
    assert result.count("mapped") == result.count("unmapped")
    assert result.count("misuse") == 0


@pytest.mark.parametrize("case,fault", PAIRS)
def test_found(case, fault, module):
    """The case fails when it should."""
    run = _run(module, "legacy", f"quick=1 test={case} fault={fault}")
    found = run.tests.get(case)
    assert found, "the case did not run"
    assert not found.passed, "the case passed all the same"


def test_every_case_is_run():
    """No case is missing from the table above."""
    assert set(dma.IOMMU_CASES) == set(CASES)
