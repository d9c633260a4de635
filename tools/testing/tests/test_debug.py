# SPDX-License-Identifier: GPL-2.0
"""The debug kernel: KASAN, lockdep, DMA_API_DEBUG watch what goes on.

A complaint on the console fails the run: see test_ccvm.
"""

import dma
import pytest
import vm


@vm.once
def _run(module) -> dma.Run:
    # Each size up to the end of the second class, in a kernel that is slow.
    return dma.Run(module, "every=2100", "--debug", timeout=600)


@pytest.mark.parametrize("case", dma.CASES)
def test_case(case, debug_module):
    """One case of the DMA API test."""
    skip_allowed = "debug" in dma.SKIPPED.get(case, ())
    _run(debug_module).require(case, skip_allowed=skip_allowed)


def test_no_complaint(debug_module):
    """The kernel found nothing wrong, and DMA_API_DEBUG did look."""
    result = _run(debug_module).result
    assert result.status == 0, result.tail()
    assert vm.lines(result.console, r"DMA-API: debugging enabled"), "another kernel"
    assert not vm.lines(result.console, r"DMA-API: .*disabl"), "DMA_API_DEBUG gave up"


@vm.once
def _run_io() -> vm.Result:
    return vm.run(
        "sh /host/workload/disk nvme0n1 ext4 8M && sh /host/workload/disk vda ext4 8M;"
        f' echo "io: $?"; {vm.show("watermark", f"{vm.PARAMETERS}/watermark")};'
        f" {vm.counters()}",
        *("--debug", "--add", str(vm.TESTING / "workload")),
        timeout=400,
    )


def test_io():
    """Disks and a file system under the same eyes."""
    result = _run_io()
    assert "io: 0" in result.stdout, result.tail()
    # The legacy pool may serve mappings that so slow a kernel makes before kccd runs.
    assert result.count("refused") == 0
    assert result.count("misuse") == 0
    assert result.count("mapped") > 1000


def test_defaults_of_kconfig():
    """The setting in the kernel's configuration counts; test_torture overrides it."""
    assert _run_io().section("watermark").strip() == "64M"
    assert _run_io().count("watermark_bytes") == 64 << 20
