# SPDX-License-Identifier: GPL-2.0
"""Mistakes of a faulty driver are found, reported once, and do no harm."""

import dma
import pytest
import vm

MESSAGES = ("double unmap", "wrong address", "past the end", "no memory is lent")


@vm.once
def _run(module) -> dma.Run:
    return dma.Run(module, "misuse=1", timeout=200)


@pytest.mark.parametrize("case", dma.MISUSE_CASES)
def test_case(case, module):
    """Nothing is corrupted, no slot is handed out twice."""
    _run(module).require(case)


@pytest.mark.parametrize("message", MESSAGES)
def test_message(message, module):
    """The kernel log reports it, once."""
    found = vm.lines(_run(module).log, message)
    assert len(found) == 1, f"{len(found)} messages: {found[:5]}"


def test_counted(module):
    """Each mistake is counted, and the guest goes on."""
    result = _run(module).result
    assert result.status == 0, result.tail()
    assert result.count("misuse") >= len(dma.MISUSE_CASES)
    assert result.count("refused") == 0
