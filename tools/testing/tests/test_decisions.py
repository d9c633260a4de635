# SPDX-License-Identifier: GPL-2.0
"""Data that a device writes into shared memory decides nothing.

The place of each mapping, the memory that is lent, and the refusals are the same for
the same operations, even if all shared memory is overwritten between any two of them.
The guest has one CPU, so that kccd does its part at the same places. It has no cap:
where mappings are refused, time has a say, since an admission to a closed class is
valid for milliseconds, and even undisturbed guests differ from each other.

On a busy machine kccd may run elsewhere, a timer tick earlier. If two guests differ,
they are therefore followed by two others, twice at most, and each is compared with
each. If the device had a say, all would differ.
"""

import re

import dma
import vm

OPERATIONS = 3000
PAIRS = 3
QUIET = ("--cpus", "1", "--nvme", "0", "--blk", "0")
APPEND = f"cc_swiotlb.idle_ms=3600000 {vm.LOG_SPACE}"


@vm.once
def _decisions(module, pair: int, *parameters: str) -> dict[str, str]:
    """The decisions of one guest. Another pair is another guest."""
    del pair
    words = " ".join(("test=decisions", *parameters))
    run = dma.Run(module, words, *QUIET, "--append", APPEND, timeout=240)
    run.require("decisions")
    found = re.search(
        r"decisions (?P<number>0x\w+), (?P<spans>\d+) spans, (?P<refused>\d+) refused,"
        r" (?P<scribbles>\d+) scribbles",
        run.log,
    )
    assert found, run.result.tail()
    assert run.result.count("misuse") == 0
    return found.groupdict()


def test_same_while_all_is_overwritten(module):
    """The device has a say in none of the decisions."""
    quiet, loud = [], []
    for pair in range(PAIRS):
        for made, decide, scribbles in ((quiet, 1, 0), (loud, 2, OPERATIONS)):
            made.append(dict(_decisions(module, pair, f"decide={decide}")))
            assert made[-1].pop("scribbles") == str(scribbles)
        if any(one in quiet for one in loud):
            return
    raise AssertionError(f"{quiet} {loud}")


def test_other_operations_other_number(module):
    """The control: other operations have another number."""
    one = _decisions(module, 0, "decide=1")
    other = _decisions(module, 0, "decide=1", "seed=2")
    assert one["number"] != other["number"]


def test_several_chunks(module):
    """More was used than one chunk has."""
    told = _decisions(module, 0, "decide=1")
    assert int(told["spans"]) >= 8
    assert int(told["refused"]) == 0
