# SPDX-License-Identifier: GPL-2.0
"""Loads the DMA API test module in a guest, and reads what its cases said."""

import re
from pathlib import Path

import ktap
import vm

RUNNER = vm.TESTING / "dma_test" / "runner.c"

VARIANTS = {
    "coco-cc": ("--guest", "coco", "--swiotlb", "cc"),
    "coco-legacy": ("--guest", "coco", "--swiotlb", "legacy"),
    "plain-cc": ("--guest", "plain", "--swiotlb", "cc"),
    "plain-legacy": ("--guest", "plain", "--swiotlb", "legacy"),
}

# Cases that need something that a guest of this kind cannot have.
SKIPPED = {
    "dma_mask": ("coco-cc", "coco-legacy", "debug"),
    "lent_mapping": ("coco-legacy", "plain-cc", "plain-legacy"),
}


def _table(name: str) -> list[str]:
    source = RUNNER.read_text(encoding="utf-8")
    body = source.partition(f"{name}[] = {{")[2].partition("};")[0]
    return re.findall(r'\{ "(\w+)", ', body)


# The names of the cases, so that one that does not run is missed.
CASES = _table("dt_cases")
MISUSE_CASES = _table("dt_misuse_cases")
EXHAUST_CASES = _table("dt_exhaust_cases")
IOMMU_CASES = _table("dt_iommu_cases")


class Run:
    """One guest in which the module was loaded."""

    def __init__(self, module: Path, parameters: str, *options: str, timeout: int):
        command = (
            f"{vm.wait_ready()}; insmod /host/{module.name} {parameters};"
            f' echo "insmod: $?"; {vm.counters()}; {vm.log()}; true'
        )
        self.result = vm.run(
            command,
            *("--add", str(module), "--append", vm.LOG_SPACE, *options),
            timeout=timeout,
            status=None,
        )
        self.log = ""
        self.tests: dict[str, ktap.Test] = {}
        if "=== log" not in self.result.stdout:
            return
        self.log = self.result.section("log")
        for test in ktap.parse(self.log):
            # busybox's insmod tries again when loading failed; once is enough.
            if test.name not in self.tests or self.tests[test.name].passed:
                self.tests[test.name] = test

    def require(self, name: str, skip_allowed: bool = False) -> None:
        """One case has run and passed."""
        test = self.tests.get(name)
        assert test, f"{name} did not end\n{self.result.tail()}"
        assert test.passed, "\n".join(test.said[-20:])
        assert skip_allowed or not test.skipped, f"skipped: {test.skipped}"


@vm.once
def run(variant: str, module: Path) -> Run:
    """All cases in a guest of this kind; the guest runs once."""
    return Run(module, "", *VARIANTS[variant], timeout=400)
