# SPDX-License-Identifier: GPL-2.0
"""Disks of all kinds, few and many, fast and slow."""

import re

import pytest
import vm

WORKLOAD = ("--add", str(vm.TESTING / "workload"))


@vm.once
def _verified(swiotlb: str) -> vm.Result:
    # Seven SATA disks: the last one is on a controller of its own.
    return vm.run(
        f"""
{vm.wait_ready() if swiotlb == "cc" else ""}
for disk in $(cd /sys/block && echo sd*); do
	vendor=$(cat /sys/block/$disk/device/vendor)
	echo "disk: $disk $vendor"
	sh /host/workload/disk $disk none 4M
	echo "io: $? $vendor"
done
first=$(grep -l QEMU /sys/block/sd*/device/vendor | cut -d / -f 4 | head -n 1)
sh /host/workload/disk $first ext4 4M && echo 'ext4: ok'
{vm.counters()}
echo '=== end'
""",
        *("--nvme", "0", "--blk", "0", "--scsi", "2", "--ahci", "7"),
        *("--append", f"cc_swiotlb.watermark={vm.WRITE_BACK}"),
        *("--swiotlb", swiotlb, *WORKLOAD),
        timeout=300,
    )


@pytest.mark.parametrize("swiotlb", ["cc", "legacy"])
class TestScsiAndSata:
    """virtio-scsi and AHCI, in a confidential guest, with either allocator."""

    def test_verified(self, swiotlb):
        """Every disk is there, and every byte comes back as it went out."""
        result = _verified(swiotlb)
        done = re.findall(r"^io: (\d+) (\w+)", result.stdout, re.M)
        assert sorted(done) == [("0", "ATA")] * 7 + [("0", "QEMU")] * 2, result.tail()
        assert "ext4: ok" in result.stdout, result.tail()

    def test_no_errors(self, swiotlb):
        """The drivers had nothing to complain about either."""
        result = _verified(swiotlb)
        assert not vm.lines(
            result.console,
            r"I/O error|buffer is full|mappings refused|failed command|\bEH\b.*error",
        )


def test_scsi_and_sata_bounce():
    """The disks went through cc_swiotlb, which was never short of slots."""
    result = _verified("cc")
    # 9 disks, each with 8 MiB written and read back.
    assert result.count("mapped") > 9 * 100
    for key in ("fallback_legacy", "refused", "misuse", "leaked_bytes"):
        assert result.count(key) == 0, key


def test_more_disks_than_slots():
    """60 disks: controllers share slots of the PCI bus."""
    result = vm.run(
        """
for path in /sys/block/nvme* /sys/block/vd* /sys/block/sd*; do
	disk=${path##*/}
	dd if=/dev/zero of=/dev/$disk bs=64k count=1 oflag=direct 2>/dev/null &&
		dd if=/dev/$disk bs=64k count=1 iflag=direct 2>/dev/null | wc -c |
		sed "s/^/$disk /"
done
""",
        *("--nvme", "20", "--blk", "20", "--scsi", "12", "--ahci", "8", "--net"),
        *("--mem", "2G"),
        timeout=240,
    )
    read = re.findall(r"^(nvme|vd|sd)\w+ 65536$", result.stdout, re.M)
    assert (read.count("nvme"), read.count("vd"), read.count("sd")) == (20, 20, 20)


@vm.once
def _null() -> vm.Result:
    # 64 requests at a time on each disk, one after the other.
    return vm.run(
        """
for path in /sys/block/nvme* /sys/block/vd* /sys/block/sd*; do
	disk=${path##*/}
	vendor=$(cat $path/device/vendor 2>/dev/null)
	echo "=== $disk $vendor"
	fio --name=x --filename=/dev/$disk --direct=1 --ioengine=libaio --rw=randread \\
		--iodepth=24 --bs=4k --time_based --runtime=10 --size=256M \\
		--output-format=terse --terse-version=3 | cut -d ';' -f 5,8,40
	dd if=/dev/$disk bs=64k count=1 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c
done
""",
        # So long that what the machine takes in addition hardly counts.
        *("--null-ms", "1000", "--nvme", "1", "--blk", "1", "--scsi", "1"),
        *("--ahci", "1", "--mem", "512M"),
        timeout=150,
    )


@pytest.mark.parametrize("disk", ["nvme0n1", "vda", "ATA", "QEMU"])
def test_null_disks(disk):
    """--null-ms holds every request, all of them at once, and reads zeroes."""
    found = re.search(
        rf"^=== .*\b{disk}\b.*\n(\d+);(\d+);([\d.]+)\n(\d+)$", _null().stdout, re.M
    )
    assert found, _null().tail()
    error, per_second, latency_us, left = found.groups()
    assert (error, left) == ("0", "0")
    assert float(latency_us) >= 1_000_000
    # 16 at a time would be 16 a second.
    assert 17 <= int(per_second) <= 24


def test_many_nvme_disks_have_coherent_memory():
    """Coherent memory is enough for 160 requests at a time, even if it cannot grow."""
    jobs = " ".join(f"--name=n{n} --filename=/dev/nvme{n}n1" for n in range(20))
    result = vm.run(
        f"""
for i in $(seq 300); do
	[ "$(sed -n 's/shared_bytes: //p' {vm.STATS})" -gt 160000000 ] && break
	sleep 0.1
done
echo 1000,share >/sys/module/cc_emul/parameters/refuse
fio --thread --direct=1 --ioengine=libaio --iodepth=8 --rw=randread --bs=256k \
	--size=512M --time_based --runtime=4 --group_reporting {jobs} >/tmp/fio 2>&1
echo "fio: $?"
cat /proc/cmdline
""",
        *("--nvme", "20", "--blk", "0", "--null-ms", "100", "--cpus", "4"),
        # Enough for all requests, so that all of them are under way.
        *("--mem", "2G", "--append", "cc_swiotlb.watermark=160M"),
        "--allow-warnings",
        timeout=240,
    )
    assert "fio: 0" in result.stdout, result.tail()
    assert "coherent_pool=4M" in result.stdout
    assert not vm.lines(result.console, "WARNING: at dma_alloc_from_pool")


@pytest.mark.parametrize(
    "options,word",
    [
        (("--null-ms", "1", "--latency-ms", "1"), "a disk is of one kind"),
        (("--null-ms", "-1"), "not negative"),
        (("--scsi", "-1"), "--scsi -1: from 0 to"),
        (("--ahci", "193"), "--ahci 193: from 0 to 192"),
        (("--nvme", "100", "--blk", "100"), "no more than 192"),
        (("--cpus", "65"), "--cpus 65: from 1 to 64"),
        (("--plug", "100M@1"), "--plug 100M@1: a multiple of 128M"),
        (("--plug", "128M"), "--plug 128M: the form is"),
    ],
)
def test_refused(options, word):
    """Options that no guest can have are refused, and the message says why."""
    assert word in vm.run("true", *options, status=vm.SETUP).stderr


def test_starved_sata():
    """libata retries a command that cannot be mapped, and stops no port for it."""
    result = vm.run(
        f"""
{vm.wait_ready()}
fio --name=x --thread --filename=/dev/sda --direct=1 --ioengine=libaio --iodepth=31 \\
	--bs=512k --size=64M --rw=randread >/tmp/fio 2>&1
echo "fio: $?"
{vm.counters()}
""",
        *("--append", "cc_swiotlb.max=2M cc_swiotlb.watermark=1M"),
        *("--nvme", "0", "--blk", "0", "--ahci", "1", "--null-ms", "500"),
        timeout=300,
        status=None,
    )
    assert "fio: 0" in result.stdout, result.tail()
    assert result.count("refused") > 0, "the control: not everything was mapped"
    assert not vm.lines(result.console, r"I/O error|failed command|EH complete")
