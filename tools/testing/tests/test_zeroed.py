# SPDX-License-Identifier: GPL-2.0
"""A chunk is zeroed before and after each conversion: four times, each for a reason.

The emulation leaves a pattern in the memory that it converts, as a conversion on
SEV-SNP may leave anything, and counts what the pages held before.
"""

import pytest
import vm
from host import Watcher

SCRAMBLE = "/sys/module/cc_emul/parameters/scramble"
# A page of the pattern.
PATTERN = "Z" * 4096
PAGE = 4096
SMALL, LARGE = "16M", "96M"
LARGE_BYTES = 96 << 20
IDLE_MS = 300
# Most of the free memory.
OLD_BYTES = 300 << 20


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
    """Memory full of old data is shared, used, given back, and shared once more."""
    path = tmp_path_factory.mktemp("shared") / "memory"
    watermark = f"{vm.PARAMETERS}/watermark"
    load = "--filename=/dev/nvme0n1 --direct=1 --bs=256k --iodepth=32 --ioengine=libaio"
    result = vm.run(
        f"""
{vm.wait_ready()}
shared() {{ awk '$1 == "shared_bytes:" {{ print $2 }}' {vm.STATS}; }}
grow() {{
	echo {LARGE} >{watermark}
	for n in $(seq 300); do [ "$(shared)" -ge {LARGE_BYTES} ] && break; sleep 0.1; done
}}
# What is free has been used before.
mkdir /old && mount -t tmpfs -o size=90% none /old
dd if=/dev/urandom of=/old/file bs=1M count={OLD_BYTES >> 20} 2>/dev/null
echo "=== old"; wc -c </old/file; umount /old
echo 1 >{SCRAMBLE}
{vm.counters()}
grow
fio --name=a {load} --rw=randwrite --size=64M >/tmp/fio && grep 'err= 0' /tmp/fio
echo {SMALL} >{watermark}
for n in $(seq 300); do [ "$(shared)" -lt {LARGE_BYTES // 2} ] && break; sleep 0.1; done
{vm.settle()}
echo "=== small"; shared
grow
{vm.settle()}
{vm.counters()}
{vm.show("emulation", vm.EMULATION)}
""",
        *("--mem", "512M", "--shared-file", str(path), "--blk", "0"),
        *("--append", f"cc_swiotlb.watermark={SMALL} cc_swiotlb.idle_ms={IDLE_MS}"),
        timeout=240,
    )
    watcher = Watcher(path, [PATTERN])
    watcher.look()
    path.unlink()
    assert "err= 0" in result.stdout, result.tail()
    return result, watcher.seen[PATTERN]


def test_chunks_came_and_went(run):
    """The control: memory was full of old data, and much of it was converted."""
    result, _ = run
    assert int(result.section("old")) == OLD_BYTES, result.tail()
    assert int(result.section("small")) < LARGE_BYTES // 2, result.tail()
    assert result.count("scrambled", "emulation") >= 3 * (LARGE_BYTES // 2) // PAGE
    assert result.count("bad_frees", "emulation") == 0


def test_before_sharing(run):
    """The old content of the pages is gone before the host can look."""
    result, _ = run
    assert result.count("dirty_shares", "emulation") == 0


def test_after_sharing(run):
    """Shared memory holds zeroes, whatever the conversion left in it."""
    _, pages = run
    assert pages == 0


def test_before_giving_back(run):
    """Bounced data is gone before the pages change hands."""
    result, _ = run
    assert result.count("dirty_unshares", "emulation") == 0


def test_after_giving_back(run):
    """The next user of the pages does not find what the conversion left."""
    result, _ = run
    assert result.count("dirty_frees", "emulation") == 0
