# SPDX-License-Identifier: GPL-2.0
"""What `make fuzz` takes for passed."""

import fuzz
import pytest

PASSED = """\
torture: operations: 4711
state: success
torture: slots: 8, all accounted for
torture: passed
cc_swiotlb_torture: End of test: SUCCESS ops=4711
"""


def test_passed():
    """The number of operations, if all of it passed."""
    assert fuzz.operations_of(PASSED) == 4711


@pytest.mark.parametrize(
    "said",
    [
        "",
        PASSED.replace("torture: passed", "torture: FAILED: leaked: 4096 bytes"),
        PASSED.replace("torture: operations: 4711\n", ""),
        PASSED + "WARNING: pool/span.rs:3 at cc_swiotlb_unmap+0x1/0x2\n",
        PASSED + "BUG: kernel NULL pointer dereference\n",
    ],
)
def test_failed(said):
    """Whatever else the kernel has to say is a failure."""
    assert not fuzz.operations_of(said)
