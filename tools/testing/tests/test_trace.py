# SPDX-License-Identifier: GPL-2.0
"""Trace events: each mapping that is undone can be matched to its making."""

import re

import pytest
import vm

EVENTS = "/sys/kernel/tracing/events"
FIELDS = (
    "dev_name",
    "dma_mask",
    "dev_addr",
    "size",
    "force",
    "orig_addr",
    "bounce_addr",
)
OWN = ("refill", "giveback", "fallback", "refused")
PAIR = re.compile(
    r"swiotlb_(bounced|unbounced): dev_name: (\S+) dma_mask=(\w+) dev_addr=(\w+)"
    r" size=(\d+) (NORMAL|FORCE)(?: orig_addr=(\w+) bounce_addr=(\w+))?"
)


@vm.once
def _result() -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}
cd /sys/kernel/tracing
echo '=== format'; cat events/swiotlb/swiotlb_unbounced/format
echo '=== own'; ls events/cc_swiotlb
echo 8192 > buffer_size_kb
echo 1 > events/swiotlb/swiotlb_bounced/enable
echo 1 > events/swiotlb/swiotlb_unbounced/enable
dd if=/dev/urandom of=/dev/nvme0n1 bs=64k count=64 oflag=direct 2>/dev/null
dd if=/dev/vda of=/dev/null bs=16k count=256 iflag=direct 2>/dev/null
echo 0 > events/swiotlb/swiotlb_bounced/enable
echo 0 > events/swiotlb/swiotlb_unbounced/enable
echo '=== trace'; grep swiotlb trace
echo '=== end'
""",
        timeout=90,
    )


def _events() -> list[tuple[str, ...]]:
    events = PAIR.findall(_result().section("trace"))
    lines = _result().section("trace").count("swiotlb_")
    assert len(events) == lines > 500, f"{lines} lines, {len(events)} understood"
    return events


@pytest.mark.parametrize("field", FIELDS)
def test_field(field):
    """The event has the field."""
    assert re.search(rf"field:[^;]*\b{field}\b", _result().section("format"))


@pytest.mark.parametrize("event", OWN)
def test_own_event(event):
    """The allocator's own events exist."""
    assert f"cc_swiotlb_{event}" in _result().section("own").split()


def test_pairs():
    """Each unbounced mapping was bounced before, with the same device and size."""
    open_mappings: dict[tuple, int] = {}
    matched = unknown = 0
    for kind, device, _, address, size, _, original, bounce in _events():
        if kind == "bounced":
            key = (device, int(address, 16), size)
            open_mappings[key] = open_mappings.get(key, 0) + 1
            continue
        key = (device, int(original, 16), size)
        assert int(bounce, 16) != int(original, 16)
        if open_mappings.get(key):
            open_mappings[key] -= 1
            matched += 1
        else:
            unknown += 1
    # Mapped before tracing began: a driver's long-lived buffers, no more.
    assert matched > 250, f"{matched} matched"
    assert unknown <= 2, f"{unknown} without a partner"
    assert sum(open_mappings.values()) <= 2, "made, but never undone"


def test_bounce_address():
    """The bounce address is where the device's leads, without the shared bit."""
    for kind, _, _, address, size, _, _, bounce in _events():
        if kind == "unbounced":
            low = int(address, 16) & (1 << 36) - 1
            assert low == int(bounce, 16) & (1 << 36) - 1
            assert int(size) > 0
