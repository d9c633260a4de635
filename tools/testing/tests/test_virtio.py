# SPDX-License-Identifier: GPL-2.0
"""A request to a virtio disk maps its data, and nothing else.

Its header, its status and its table of descriptors are in memory that was lent to the
drivers.  With swiotlb=force nothing is lent to them, in the same kernel.
"""

import re

import pytest
import vm

IO = str(vm.TESTING / "workload")
REQUESTS = 500
DRIVER = "/sys/bus/virtio/drivers/virtio_blk"
FAIL = "/sys/kernel/debug/fail_function"
# Bytes of a request in a queue: its headers and its table.
REQUEST_BYTES = 64 + 128

# The same disk, and the layouts that its queue can have.
PACKED = ("--qemu-append", "-global virtio-device.packed=on")
LAYOUTS = {"split": (), "packed": PACKED}
FORCE = ("--append", "swiotlb=force")

# A disk that cannot read the first page behind 1 MiB.
BAD_SECTOR = 2048
BAD_DISK = (
    "-drive if=none,id=bad,driver=blkdebug,image.driver=null-co,image.size=1G,"
    "image.read-zeroes=on,inject-error.0.event=none,inject-error.0.iotype=read,"
    f"inject-error.0.sector={BAD_SECTOR},inject-error.0.errno=5"
    " -device virtio-blk-pci,drive=bad,iommu_platform=on,disable-legacy=on"
)

# Shell functions: a counter; all mappings; how many of them so many requests took.
COUNT = f"""
counter() {{ awk -v key="$1:" '$1 == key {{ print $2 }}' {vm.STATS}; }}
mapped() {{ echo $(($(counter mapped) + $(counter fallback_legacy))); }}
count() {{
	before=$(mapped)
	dd if=/dev/$2 of=/dev/null bs=4k count={REQUESTS} iflag=direct 2>/dev/null
	between=$(mapped)
	dd if=/dev/zero of=/dev/$2 bs=4k count={REQUESTS} oflag=direct 2>/dev/null
	echo "$1: $((between - before)) $(($(mapped) - between))"
}}
"""


def _counted(result: vm.Result, name: str) -> list[float]:
    """Mappings for a read and for a write."""
    found = re.search(rf"^{name}: (\d+) (\d+)$", result.stdout, re.M)
    assert found, result.tail()
    return [int(each) / REQUESTS for each in found.groups()]


@vm.once
def _disk(*options: str) -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}{COUNT}
id=$(ls {DRIVER} | grep virtio)
cut -c 35 {DRIVER}/$id/features | sed 's/^/packed: /'
count blk vda
sh /host/workload/disk vda ext4 4M; echo "io: $?"
bound=$(counter lent_bytes)
echo $id >{DRIVER}/unbind
echo "lent: $bound $(counter lent_bytes)"
for n in $(seq 20); do
	echo $id >{DRIVER}/bind
	echo $id >{DRIVER}/unbind
done
unbound=$(counter lent_bytes)
echo $id >{DRIVER}/bind
echo "cycles: $unbound $(counter lent_bytes)"
{vm.counters()}
""",
        *("--nvme", "0", "--blk", "1", "--cpus", "2", "--add", IO, *options),
        timeout=200,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
class TestRequest:
    """With either layout of a queue."""

    def test_maps_once(self, layout):
        """A request maps its data, and nothing else."""
        result = _disk(*LAYOUTS[layout])
        assert f"packed: {int(layout == 'packed')}" in result.stdout, result.tail()
        assert _counted(result, "blk") == [1, 1]

    def test_control(self, layout):
        """If nothing is lent to drivers, it maps header, data, status and table."""
        assert _counted(_disk(*LAYOUTS[layout], *FORCE), "blk") == [4, 4]

    def test_verified(self, layout):
        """Written data comes back, with lent memory and without."""
        for options in ((), FORCE):
            result = _disk(*LAYOUTS[layout], *options)
            assert "io: 0" in result.stdout, result.tail()
            for key in ("misuse", "lend_refused", "leaked_bytes"):
                assert result.count(key) == 0, key

    def test_all_comes_back(self, layout):
        """Memory that was lent to a driver comes back when the driver is gone."""
        lent = {}
        for name, options in (("lent", ()), ("bounced", FORCE)):
            result = _disk(*LAYOUTS[layout], *options)
            found = re.search(r"^lent: (\d+) (\d+)$", result.stdout, re.M)
            bound, unbound = map(int, found.groups())
            again = re.search(r"^cycles: (\d+) (\d+)$", result.stdout, re.M)
            assert [int(each) for each in again.groups()] == [unbound, bound]
            lent[name] = bound - unbound
        # Two queues of 256 requests each, besides their rings.
        assert lent["lent"] - lent["bounced"] == 2 * 256 * REQUEST_BYTES


def test_scsi_maps_no_table():
    """Other virtio drivers save only the mapping of the table: one of four."""

    def counted(*options: str) -> list[float]:
        result = vm.run(
            f"{vm.wait_ready()}{COUNT}count scsi sda",
            *("--nvme", "0", "--blk", "0", "--scsi", "1", *options),
        )
        return _counted(result, "scsi")

    assert counted() == [3, 3]
    assert counted(*FORCE) == [4, 4]


def test_polled():
    """A driver that polls its queue reads the status in the same way."""
    fio = (
        "fio --name=polled --filename=/dev/vda --direct=1 --ioengine=pvsync2 --hipri=1"
        " --rw=randwrite --bs=4k --size=4M --verify=crc32c --do_verify=1"
    )
    result = vm.run(
        f"""
{vm.wait_ready()}{COUNT}
dmesg | grep default/read/poll
before=$(mapped)
{fio} >/tmp/fio 2>&1; echo "fio: $?"
echo "mapped: $(($(mapped) - before))"
""",
        *("--nvme", "0", "--blk", "1", "--cpus", "2"),
        *("--append", "virtio_blk.poll_queues=1"),
    )
    assert "1/0/1 default/read/poll" in result.stdout, result.tail()
    assert "fio: 0" in result.stdout, result.tail()
    mapped = int(re.search(r"^mapped: (\d+)$", result.stdout, re.M)[1])
    assert 2 * 1024 <= mapped < 2 * 1024 + 100


def test_errors_are_seen():
    """The status of the device counts: no error is missed, and none is added."""
    reads = "\n".join(
        f"dd if=/dev/vda of=/dev/null bs=512 count=1 skip={sector} iflag=direct "
        f"2>/dev/null; echo 'read {sector}: '$?"
        for sector in (0, BAD_SECTOR, BAD_SECTOR + 8, BAD_SECTOR, 0)
    )
    result = vm.run(
        f"{vm.wait_ready()}\n{reads}\n{vm.log()}",
        *("--nvme", "0", "--blk", "0", "--qemu-append", BAD_DISK),
        *("--append", vm.LOG_SPACE),
    )
    found = re.findall(r"^read (\d+): (\d)$", result.stdout, re.M)
    bad = str(BAD_SECTOR)
    assert found == [
        *(("0", "0"), (bad, "1"), (str(BAD_SECTOR + 8), "0"), (bad, "1"), ("0", "0"))
    ]
    said = result.section("log")
    assert vm.lines(said, rf"I/O error, dev vda, sector {BAD_SECTOR} ")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_short_of_memory(layout):
    """A request that cannot be mapped is tried again: it is no error of the disk."""
    result = vm.run(
        f"""
{vm.wait_ready()}
fio --name=short --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 \\
	--size=32M --rw=write --bs=512k --verify=crc32c --do_verify=1 >/tmp/fio 2>&1
echo "fio: $?"
{vm.counters()}
""",
        *("--nvme", "0", "--blk", "1", "--latency-ms", "500", *LAYOUTS[layout]),
        *("--append", "cc_swiotlb.max=4M cc_swiotlb.watermark=1M"),
    )
    assert result.count("refused") > 0, result.tail()
    assert "fio: 0" in result.stdout, result.tail()
    assert not vm.lines(result.console, "I/O error")


def test_nothing_to_lend():
    """At its cap there is nothing for the last disk: it maps all, and loses nothing.

    Its requests are smaller than what is left, or they would wait for ever.
    """
    result = vm.run(
        f"""
{vm.wait_ready()}{COUNT}
count blk vdh
echo 256 >/sys/block/vdh/queue/max_sectors_kb
sh /host/workload/disk vdh none 4M; echo "io: $?"
{vm.counters()}
""",
        *("--nvme", "0", "--blk", "8", "--cpus", "4", "--add", IO),
        *("--append", "cc_swiotlb.max=2M cc_swiotlb.watermark=1M"),
    )
    assert "io: 0" in result.stdout, result.tail()
    assert result.count("lend_refused") > 0
    assert _counted(result, "blk") == [4, 4]


def test_refused():
    """A driver to which nothing is lent, and which is bound again."""
    result = vm.run(
        f"""
{vm.wait_ready()}{COUNT}
id=$(ls {DRIVER} | grep virtio)
again() {{ echo $id >{DRIVER}/unbind; echo $id >{DRIVER}/bind; }}
count before vda
echo 0 >{FAIL}/verbose; echo -1 >{FAIL}/times; echo 100 >{FAIL}/probability
echo dma_alloc_lent >{FAIL}/inject
again
count refused vda
sh /host/workload/disk vda none 1M; echo "io: $?"
echo >{FAIL}/inject
again
count after vda
sh /host/workload/disk vda none 1M; echo "io: $?"
{vm.counters()}
""",
        *("--debug", "--nvme", "0", "--blk", "1", "--add", IO),
        timeout=200,
    )
    assert _counted(result, "before") == _counted(result, "after") == [1, 1]
    assert _counted(result, "refused") == [4, 4]
    assert result.stdout.count("io: 0") == 2, result.tail()
    assert result.count("misuse") == 0


# The events between which a request is added to a queue, and taken from it.
EVENTS = (
    "block/block_rq_issue",
    "sched/sched_switch",
    "irq/irq_handler_entry",
    "block/block_rq_complete",
)
ROUNDS = 5
# Prints the most frequent time between them. With -icount a tick is an instruction.
TIMES = r"""
{ for (i = 1; $i !~ /^[0-9]+:$/ && i < NF; i++); at = $i + 0; event = $(i + 1) }
event ~ /rq_issue/ { issued = at }
event ~ /sched_switch/ { if (issued) added[at - issued]++; issued = 0 }
event ~ /irq_handler/ { entered = at }
event ~ /rq_complete/ { if (entered) taken[at - entered]++; entered = 0 }
function mode(times,  time, best) {
	for (time in times) if (!best || times[time] > times[best]) best = time
	return best
}
END { print "instructions " op ": " mode(added) " " mode(taken) }
"""


@vm.once
def _instructions(*options: str) -> dict[str, int]:
    """Instructions to add and to take back a request, for a read and a write of 4 KiB.

    They are those of the round with the fewest: all requests of a round can take some
    more, depending on the timers of the idle CPU.
    """
    enable = "; ".join(f"echo $1 >events/{event}/enable" for event in EVENTS)
    dd = f"dd bs=4k count={REQUESTS}"
    result = vm.run(
        f"""
{vm.wait_ready()}; sleep 1
cd /sys/kernel/tracing
echo x86-tsc >trace_clock
events() {{ {enable}; }}
for op in $(yes 'read write' | head -n {ROUNDS}); do
	echo >trace
	events 1
	case $op in
	read) {dd} if=/dev/vda of=/dev/null iflag=direct 2>/dev/null ;;
	write) {dd} if=/dev/zero of=/dev/vda oflag=direct 2>/dev/null ;;
	esac
	events 0
	awk -v op=$op '{TIMES}' trace
done
""",
        *("--nvme", "0", "--blk", "1", "--null-ms", "0", "--cpus", "1", *options),
        *("--accel", "tcg,thread=single"),
        *("--qemu-append", "-icount shift=0,sleep=off"),
    )
    found = re.findall(r"^instructions (\w+): (\d+) (\d+)$", result.stdout, re.M)
    assert len(found) == 2 * ROUNDS, result.tail()
    return {
        op: min(int(added) + int(taken) for name, added, taken in found if name == op)
        for op in ("read", "write")
    }


def test_fewer_instructions(capsys):
    """With lent memory a request takes fewer instructions from issue to completion."""
    lent, bounced = _instructions(), _instructions(*FORCE)
    with capsys.disabled():
        for op, count in lent.items():
            print(f"\n{op}: {count} instructions, {bounced[op]} bounced", end="")
    for op, count in lent.items():
        assert count < bounced[op] - 300, op
