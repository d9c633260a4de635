# SPDX-License-Identifier: GPL-2.0
"""Real I/O through the pools, every byte verified, every counter looked at."""

import re

import pytest
import vm
from workload.server import Server

REFUSED = (
    r"cc_swiotlb: [1-9]\d* mappings refused since the last message, this one of \d+ "
    r"bytes for want of slots of \d+K?: [^;]+; [^;]+$"
)
IO = str(vm.TESTING / "workload")


@vm.once
def _run(guest: str, swiotlb: str) -> vm.Result:
    with Server() as server:
        result = vm.run(
            f"""
{vm.wait_ready()}
(
	sh /host/workload/disk nvme0n1 ext4 && sh /host/workload/disk vda ext4 &&
	sh /host/workload/disk vdb none 16M && sh /host/workload/net {server.url} /tmp/file
)
echo "io: $?"
sleep 1
{vm.counters()}
""",
            *("--guest", guest, "--swiotlb", swiotlb, "--blk", "2", "--net"),
            *("--add", IO, "--append", f"cc_swiotlb.watermark={vm.WRITE_BACK}"),
            timeout=300,
        )
        result.server = server
    return result


@pytest.mark.parametrize("swiotlb", ["cc", "legacy"])
@pytest.mark.parametrize("guest", ["coco", "plain"])
def test_verified(guest, swiotlb):
    """Blocks, files and network traffic come back as they went out."""
    result = _run(guest, swiotlb)
    assert "io: 0" in result.stdout, result.tail()
    for step in ("nvme0n1: fio", "nvme0n1: ext4", "vda: ext4", "net: sent"):
        assert f"step: {step}" in result.stdout, result.tail()
    assert result.server.sent >= 20 << 20
    assert result.server.received >= 16 << 20


@pytest.mark.parametrize("guest", ["coco", "plain"])
class TestCounters:
    """The counters of cc_swiotlb after that I/O."""

    def test_all_through_the_pools(self, guest):
        """After kccd has started, the legacy pool serves nothing."""
        result = _run(guest, "cc")
        assert result.stats()["state"] == "on"
        assert result.count("mapped") > 5000
        assert result.count("fallback_legacy") == 0

    def test_nothing_failed(self, guest):
        """No failure of any kind."""
        result = _run(guest, "cc")
        for key in (
            "refused",
            "misuse",
            "conversion_failures",
            "leaked_bytes",
        ):
            assert result.count(key) == 0, key

    def test_all_undone(self, guest):
        """Slots that are still in use are held by drivers while they are idle."""
        result = _run(guest, "cc")
        used = {name: row["in_use"] for name, row in result.classes().items()}
        # virtio-net keeps its receive ring filled: 256 buffers of a page.
        assert sum(used.values()) <= 512, used
        assert used["512K"] == 0
        bounced, unbounced = result.count("mapped"), result.count("unmapped")
        assert bounced - unbounced == sum(used.values()), "a mapping got lost"

    def test_classes_used(self, guest):
        """I/O of all sizes meets classes of all sizes."""
        classes = _run(guest, "cc").classes()
        assert sum(row["mapped"] for row in classes.values()) > 5000
        for name in ("512", "4K", "64K", "128K"):
            assert classes[name]["mapped"] > 0, name

    def test_bounded(self, guest):
        """No more memory is shared than is allowed, or than swiotlb takes."""
        result = _run(guest, "cc")
        peak = result.count("peak_shared_bytes")
        assert 0 < result.count("shared_bytes") <= peak <= result.count("max_bytes")


def test_twenty_disks():
    """Twenty slow disks at once, each with a queue: nothing fails."""
    jobs = " ".join(f"--name=n{n} --filename=/dev/nvme{n}n1" for n in range(20))
    result = vm.run(
        f"""
{vm.wait_ready()}
fio --thread --direct=1 --ioengine=libaio --iodepth=8 --rw=randread --bs=256k \\
	--size=512M --time_based --runtime=20 {jobs} >/tmp/fio 2>&1 &
# Until each disk has done as many requests as its queue holds.
for i in $(seq 600); do
	awk '$3 ~ /^nvme.*n1$/ && $4 >= 8 {{ n++ }} END {{ exit n < 20 }}' /proc/diskstats &&
		break
	sleep 0.1
done
sleep 5
{vm.show("stats under way", vm.STATS)}
kill -0 $! && echo "under way"
wait $!
echo "fio: $?"
echo '=== fio'
grep -c 'err= 0' /tmp/fio
{vm.counters()}
""",
        *("--nvme", "20", "--blk", "0", "--latency-ms", "300", "--cpus", "4"),
        timeout=240,
    )
    assert "under way\nfio: 0\n" in result.stdout, result.tail()
    assert result.section("fio") == "20\n", result.tail()
    # Mappings are refused until kccd has converted enough, and are tried again.
    assert result.count("refused") == result.count("refused", "stats under way")
    assert not vm.lines(result.console, "buffer is full|I/O error")


def _burst(*args: str) -> vm.Result:
    """160 readers of 1 MiB at once, on 20 slow disks, from idle."""
    jobs = " ".join(f"--name=n{n} --filename=/dev/nvme{n}n1" for n in range(20))
    return vm.run(
        f"""
{vm.wait_ready()}
fio --thread --direct=1 --ioengine=psync --rw=read --bs=1M --numjobs=8 --size=64M \
	--offset_increment=64M --time_based --runtime=12 --group_reporting {jobs} \
	>/tmp/fio 2>&1
status=$?
echo '=== fio'
echo "fio: $status"
grep 'err=' /tmp/fio
{vm.counters()}
""",
        # So long that most readers are in flight at the same time on any machine.
        *("--nvme", "20", "--blk", "0", "--null-ms", "1000"),
        *("--cpus", "4", "--mem", "4G"),
        *args,
        timeout=300,
    )


@pytest.mark.parametrize("convert_us", ["0", "23", "260"])
def test_burst_from_idle(convert_us):
    """kccd is outrun, by much where a conversion is slow, and no I/O fails."""
    result = _burst("--convert-us", convert_us)
    assert "fio: 0" in result.stdout, result.tail()
    assert "err= 0" in result.stdout, result.tail()
    assert not vm.lines(result.console, "I/O error")
    # No mapping waits for kccd: those made before it has converted enough are refused,
    # and tried again. test_burst.py::TestAgain knows for how long.
    refused = result.count("refused")
    # If there is a message (some drivers want none), it is one line with the remedy,
    # and not that of swiotlb, whose pool is not the one that is short.
    said = vm.lines(result.console, "mappings refused")
    assert refused or not said, said
    assert all(re.search(REFUSED, line) for line in said), said
    assert not vm.lines(result.console, "buffer is full")
    # The control: it needed several times what was ready.
    assert result.count("peak_shared_bytes") > 60 << 20
