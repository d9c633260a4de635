# SPDX-License-Identifier: GPL-2.0
"""The KUnit suites of the allocator, run by the guest's kernel while it boots."""

import ktap
import pytest
import vm

# What the suites are about; each word is in the name of at least one of them.
AREAS = ("class", "lookup", "magazine", "depot", "watermark", "policy", "shape")


@vm.once
def _console(debug: bool) -> str:
    options = ["--append", "kunit.enable=1 kunit.filter_glob=cc_swiotlb*"]
    if debug:
        options.append("--debug")
    return vm.run("true", *options, timeout=180).console


@pytest.mark.parametrize("debug", [False, True], ids=["guest", "debug"])
def test_all_pass(debug):
    """Every test passes, none is skipped, and all that were planned ran."""
    console = _console(debug)
    tests = ktap.parse(console)
    suites = [test for test in tests if test.depth == 0]
    cases = [test for test in tests if test.depth > 0]
    bad = [test for test in tests if not test.passed or test.skipped]
    assert not bad, "\n".join(
        f"{test.name}: {' '.join(test.said[-8:])}" for test in bad
    )
    planned = [count for depth, count in ktap.plans(console) if depth == 0]
    assert planned == [len(suites)], f"{planned} planned, {len(suites)} ran"
    assert len(cases) >= 20, f"only {len(cases)} cases"


def test_areas():
    """Nothing that has a suite has lost it."""
    names = " ".join(test.name for test in ktap.parse(_console(False)))
    missing = [word for word in AREAS if word not in names]
    assert not missing, f"{missing} not in: {names}"
