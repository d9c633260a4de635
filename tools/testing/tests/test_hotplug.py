# SPDX-License-Identifier: GPL-2.0
"""Memory that is plugged in while the guest runs."""

import os
from pathlib import Path

import pytest
import vm

MIB = 1 << 20
# Where plugged memory lies: behind 4 GiB, while 512 MiB are there at boot.
PLUGGED = 4 << 30
SECRET = "written-after-the-memory-was-plugged"

WAIT_FOR_MEMORY = """
for i in $(seq 300); do
	[ "$(awk '/MemTotal/ { print $2 }' /proc/meminfo)" -gt 900000 ] && break
	sleep 0.1
done
echo "memory: $(awk '/MemTotal/ { print $2 }' /proc/meminfo)"
"""


def _shared(path: Path) -> list[tuple[int, bytes]]:
    """What the host sees of the plugged memory: address and content."""
    found = []
    with open(path, "rb") as file:
        at, size = PLUGGED, os.fstat(file.fileno()).st_size
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            except OSError:
                break
            found.append((at, os.pread(file.fileno(), end - at, at)))
            at = end
    return found


@pytest.fixture(scope="module")
def plugged() -> tuple[vm.Result, list[tuple[int, bytes]]]:
    """Plugs 512 MiB, has more slots kept ready, and starts a load."""
    # In a memory file system: the file takes as much memory as was shared.
    shared = Path("/dev/shm") / f"cc-swiotlb-test-{os.getpid()}"
    try:
        result = vm.run(
            f"""
{vm.wait_ready()}
{WAIT_FOR_MEMORY}
{vm.show("before", vm.STATS)}
echo 64M >{vm.PARAMETERS}/watermark
for i in $(seq 50); do
	[ "$(sed -n 's/^shared_bytes: //p' {vm.STATS})" -ge 64000000 ] && break
	sleep 0.1
done
# More at a time than was shared before.
fio --name=x --thread --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio \
	--rw=write --iodepth=64 --numjobs=2 --bs=512k --size=64M \
	--buffer_pattern='"{SECRET}"' >/tmp/fio 2>&1 || echo failed
{vm.counters()}
""",
            *("--mem", "512M", "--plug", "512M@2", "--blk", "0"),
            *("--null-ms", "1000"),
            *("--shared-file", str(shared)),
            timeout=120,
        )
        return result, _shared(shared)
    finally:
        shared.unlink(missing_ok=True)


def test_memory_is_there(plugged):
    """The guest has it, and does not take the shared memory for RAM."""
    result, _ = plugged
    kibibytes = int(vm.lines(result.stdout, "^memory:")[0].split()[1])
    assert 900 * MIB < kibibytes << 10 <= 1024 * MIB, result.tail()


def test_growth_goes_on(plugged):
    """The pools grow after it was plugged, no request fails, and nothing is lost."""
    result, _ = plugged
    assert "failed" not in result.stdout, result.tail()
    assert result.count("shared_bytes", "before") < 32 * MIB
    assert result.count("shared_bytes") >= 64 * MIB
    for key in ("conversion_failures", "leaked_bytes"):
        assert result.count(key) == 0, key


def test_plugged_memory_is_used(plugged):
    """The host sees some of it, with data that was bounced there."""
    _, shared = plugged
    assert shared, "none of the plugged memory was ever shared"
    assert any(SECRET.encode() in content for _, content in shared), (
        "shared, but not used"
    )
