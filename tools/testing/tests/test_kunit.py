# SPDX-License-Identifier: GPL-2.0
"""The KUnit suites of the allocator, run by the guest's kernel while it boots."""

import re

import ktap
import pytest
import vm

KUNIT = "kunit.enable=1 kunit.autorun=1 kunit.filter_glob=cc_swiotlb*"

# The suites that must exist, whatever else has one.
SUITES = {
    "cc_swiotlb_bell",
    "cc_swiotlb_class",
    "cc_swiotlb_deferred",
    "cc_swiotlb_depot",
    "cc_swiotlb_directory",
    "cc_swiotlb_gate",
    "cc_swiotlb_help",
    "cc_swiotlb_layout",
    "cc_swiotlb_lender",
    "cc_swiotlb_lent",
    "cc_swiotlb_memory",
    "cc_swiotlb_pace",
    "cc_swiotlb_policy",
    "cc_swiotlb_refusal",
    "cc_swiotlb_share",
    "cc_swiotlb_shortage",
    "cc_swiotlb_slot",
    "cc_swiotlb_span",
    "cc_swiotlb_stock",
    "cc_swiotlb_watermark",
}


@vm.once
def _log(debug: bool) -> str:
    options = ["--append", f"{KUNIT} {vm.LOG_SPACE}"] + ["--debug"] * debug
    return vm.run(vm.log(), *options, timeout=180).section("log")


@pytest.mark.parametrize("debug", [False, True], ids=["guest", "debug"])
def test_all_pass(debug):
    """Every test passes, none is skipped, and all that were planned ran."""
    log = _log(debug)
    tests = ktap.parse(log)
    suites = [test for test in tests if test.depth == 0]
    cases = [test for test in tests if test.depth > 0]
    bad = [test for test in tests if not test.passed or test.skipped]
    assert not bad, "\n".join(
        f"{test.name}: {' '.join(test.said[-8:])}" for test in bad
    )
    planned = [count for depth, count in ktap.plans(log) if depth == 0]
    assert planned == [len(suites)], f"{planned} planned, {len(suites)} ran"
    assert len(cases) >= 80, f"only {len(cases)} cases"


def test_all_suites():
    """All suites of the sources ran, and those that have to be there are."""
    written = set()
    for path in vm.ROOT.rglob("*.rs"):
        text = path.read_text(encoding="utf-8")
        written.update(re.findall(r"#\[kunit_tests\((\w+)\)\]", text))
    ran = {test.name for test in ktap.parse(_log(False)) if test.depth == 0}
    assert ran == written
    assert ran >= SUITES
