# SPDX-License-Identifier: GPL-2.0
"""What `make fuzz` counts as passed."""

from pathlib import Path
from types import SimpleNamespace

import fuzz
import pytest
from lib.failure import Failure

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
    """Any other message of the kernel is a failure."""
    assert not fuzz.operations_of(said)


def test_hang_is_kept(monkeypatch, tmp_path):
    """A kernel that does not end is a finding, and does not end the search."""

    def start(*_):
        raise Failure("console\nthe kernel did not end within 140 s")

    monkeypatch.setattr(fuzz.native, "furnish", lambda *_: None)
    monkeypatch.setattr(fuzz.native, "start", start)
    monkeypatch.setattr(fuzz.kernel, "build", lambda _: None)
    monkeypatch.setattr(fuzz.module, "build", lambda *_: Path("torture.ko"))
    options = {"minutes": 0, "seed": 7, "seconds": 20, "more": "", "output": tmp_path}
    assert fuzz.fuzz(SimpleNamespace(**options)) == 1
    assert "did not end" in (tmp_path / "seed-7").read_text()
