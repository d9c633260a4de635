# SPDX-License-Identifier: GPL-2.0
"""The DMA API, byte by byte, over cc_swiotlb and over swiotlb.

swiotlb passes as well, which shows that the cases ask for nothing but what drivers are
used to.
"""

import re

import dma
import pytest


@pytest.mark.parametrize("case", dma.CASES)
@pytest.mark.parametrize("variant", dma.VARIANTS)
def test_case(variant, case, module):
    """One case in one kind of guest."""
    dma.run(variant, module).require(
        case, skip_allowed=variant in dma.SKIPPED.get(case, ())
    )


@pytest.mark.parametrize("variant", dma.VARIANTS)
def test_run(variant, module):
    """The module loads, and the kernel has nothing to complain about."""
    result = dma.run(variant, module).result
    assert result.status == 0, result.tail()
    assert "insmod: 0" in result.stdout, result.tail()


@pytest.mark.parametrize("variant", ["coco-cc", "plain-cc"])
def test_pools_were_used(variant, module):
    """cc_swiotlb served the cases, and has everything back."""
    result = dma.run(variant, module).result
    assert result.stats()["state"] == "on"
    assert result.count("mapped") > 50000
    # Refused mappings were larger than any mapping may be; but four thousand mappings
    # at once may outrun kccd for a moment, and are tried again.
    assert result.count("fallback_oversize") > 50
    log = dma.run(variant, module).log
    again = re.findall(r"refused (?:at first )?(\d+) times", log)
    refused = result.count("refused") - result.count("fallback_oversize")
    assert 0 <= refused <= sum(map(int, again))
    assert result.count("fallback_legacy") < result.count("mapped") // 50
    assert result.count("misuse") == 0
    classes = result.classes()
    assert len(classes) >= 9, f"classes: {' '.join(classes)}"
    for name, row in classes.items():
        assert row["mapped"] > 0, f"class {name} was never used"
    # Slots that are still in use belong to the guest's disks.
    assert sum(row["in_use"] for row in classes.values()) < 64


@pytest.mark.parametrize("variant", ["coco-legacy", "plain-legacy"])
def test_legacy_is_legacy(variant, module):
    """With cc_swiotlb off, it has no part in the work of swiotlb."""
    result = dma.run(variant, module).result
    assert result.stats() == {"state": "off"}
