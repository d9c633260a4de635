# SPDX-License-Identifier: GPL-2.0
"""Guests of all sizes."""

import pytest
import vm

IO = f"""
{vm.wait_ready()}
sh /host/workload/disk nvme0n1 none 16M && sh /host/workload/disk vda none 16M
echo "io: $?"
echo "cpus: $(grep -c ^processor /proc/cpuinfo)"
grep MemTotal /proc/meminfo
{vm.counters()}
"""


@pytest.mark.parametrize(
    "memory,cpus",
    [("512M", 1), ("1G", 4), ("4G", 2)],
)
def test_guest(memory, cpus):
    """Boots, and does verified I/O through the pools."""
    result = vm.run(
        IO,
        *("--mem", memory, "--cpus", str(cpus), "--add", str(vm.TESTING / "workload")),
        timeout=150,
    )
    assert "io: 0" in result.stdout, result.tail()
    assert f"cpus: {cpus}" in result.stdout
    total = int(vm.lines(result.stdout, "MemTotal")[0].split()[1]) << 10
    size = int(memory[:-1]) << (30 if memory.endswith("G") else 20)
    assert size * 0.8 < total <= size
    assert result.stats()["state"] == "on"
    assert result.count("mapped") > 500
    for key in ("fallback_legacy", "refused", "misuse", "leaked_bytes"):
        assert result.count(key) == 0, key


def test_many_cpus():
    """64 CPUs, all of them online, and each one does I/O."""
    result = vm.run(
        f"""
echo "cpus: $(grep -c ^processor /proc/cpuinfo)"
for cpu in $(seq 0 63); do
	taskset $(printf '%x' $((1 << cpu))) \
		dd if=/dev/nvme0n1 of=/dev/null bs=4k count=8 iflag=direct 2>/dev/null &&
		echo "read on $cpu"
done
{vm.counters()}
""",
        *("--cpus", "64", "--mem", "2G", "--blk", "0"),
        timeout=300,
    )
    assert "cpus: 64" in result.stdout, result.tail()
    assert len(vm.lines(result.stdout, "^read on ")) == 64, result.tail()
    for key in ("fallback_legacy", "refused", "misuse"):
        assert result.count(key) == 0, key


def test_less_than_swiotlb():
    """An idle guest shares less than swiotlb would have reserved."""
    result = vm.run(f"{vm.wait_ready()}; sleep 2; {vm.counters()}", "--mem", "4G")
    legacy = (4 << 30) * 6 // 100
    assert result.count("shared_bytes") + result.count("legacy_bytes") < legacy // 2
