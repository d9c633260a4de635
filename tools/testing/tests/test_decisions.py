# SPDX-License-Identifier: GPL-2.0
"""What a device writes into shared memory decides nothing.

Where each mapping lies, what is lent, and what is refused, is the same for the same
operations, also if all shared memory is overwritten between every two of them. On one
CPU, so that kccd does its part at the same places. And without a cap: where mappings
are refused, time has a say, since an admission to a closed class is valid for
milliseconds, and guests that nobody disturbs differ from each other as well.

On a busy machine kccd may come elsewhere, a timer tick earlier, so that a pair of guests
that differs is followed by another one, twice at most. If the device had a say, each
pair would differ.
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
    """What was decided. Another pair is another guest."""
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
    """The device has a say in none of them."""
    for pair in range(PAIRS):
        quiet = dict(_decisions(module, pair, "decide=1"))
        loud = dict(_decisions(module, pair, "decide=2"))
        assert (quiet.pop("scribbles"), loud.pop("scribbles")) == ("0", str(OPERATIONS))
        if loud == quiet:
            break
    assert loud == quiet


def test_other_operations_other_number(module):
    """The control: the number tells."""
    one = _decisions(module, 0, "decide=1")
    other = _decisions(module, 0, "decide=1", "seed=2")
    assert one["number"] != other["number"]


def test_several_chunks(module):
    """More was used than one chunk has."""
    told = _decisions(module, 0, "decide=1")
    assert int(told["spans"]) >= 8
    assert int(told["refused"]) == 0
