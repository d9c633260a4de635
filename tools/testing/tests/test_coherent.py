# SPDX-License-Identifier: GPL-2.0
"""Memory that drivers allocate for devices is lent: nothing is converted for it.

The emulation counts all conversions; those that cc_swiotlb does not know of were made
for a single allocation.
"""

import re

import pytest
import vm

DRIVER = "/sys/bus/pci/drivers/nvme"
CYCLES = 50
CHUNK_BYTES = 2 << 20
KIB_4K = "^DirectMap4k: *([0-9]*) kB"
# By how much the split memory of two boots of the same guest differs, in KiB.
NOISE_KIB = 12 << 10


def _look(name: str) -> str:
    """Prints the figures to compare."""
    return (
        f"{vm.show(f'emulation {name}', vm.EMULATION)}; "
        f"{vm.show(f'stats {name}', vm.STATS)}; "
        f"echo '=== meminfo {name}'; cat /proc/meminfo"
    )


def _others(result: vm.Result, name: str) -> int:
    """Conversions to shared memory that are not ours."""
    own = int(result.stats(f"stats {name}").get("conversions", 0))
    return result.count("share_calls", f"emulation {name}") - own


def _split(result: vm.Result, name: str) -> int:
    """KiB of the direct map in 4 KiB entries."""
    return int(re.search(KIB_4K, result.section(f"meminfo {name}"), re.M)[1])


@vm.once
def _boot(swiotlb: str, disks: int) -> vm.Result:
    return vm.run(
        f"{vm.wait_ready()}; {_look('boot')}; echo '=== end'",
        *("--swiotlb", swiotlb, "--nvme", str(disks), "--blk", "0", "--cpus", "4"),
        timeout=240,
    )


def test_control(capsys):
    """Without cc_swiotlb each disk costs conversions, and splits the direct map."""
    one, twenty = (_boot("legacy", disks) for disks in (1, 20))
    with capsys.disabled():
        for name, result in (("one", one), ("twenty", twenty)):
            print(
                f"\n{name}, legacy: {_others(result, 'boot')} conversions,"
                f" {_split(result, 'boot')} KiB in 4 KiB entries",
                end="",
            )
    assert _others(twenty, "boot") > _others(one, "boot") + 19
    assert _split(twenty, "boot") > _split(one, "boot") + NOISE_KIB


def test_disks_cost_no_conversions(capsys):
    """With twenty disks there are no more conversions, besides ours, than with one."""
    one, twenty = (_boot("cc", disks) for disks in (1, 20))
    with capsys.disabled():
        for name, result in (("one", one), ("twenty", twenty)):
            print(
                f"\n{name}: {_others(result, 'boot')} conversions besides ours,"
                f" {_split(result, 'boot')} KiB in 4 KiB entries,"
                f" {result.count('lent_bytes', 'stats boot') >> 10} KiB lent",
                end="",
            )
    assert _others(twenty, "boot") == _others(one, "boot")
    assert _split(twenty, "boot") < _split(one, "boot") + NOISE_KIB
    lent = [result.count("lent_bytes", "stats boot") for result in (one, twenty)]
    assert lent[1] > 5 * lent[0] > 0
    for key in ("lend_refused", "lend_oversize", "misuse"):
        assert twenty.count(key, "stats boot") == 0, key


@vm.once
def _rebind() -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}
ready() {{ while [ ! -b /dev/nvme0n1 ] || [ ! -b /dev/nvme3n1 ]; do sleep 0.02; done; }}
ids=$(cd {DRIVER}; ls -d 0000:*)
cycle() {{
	for id in $ids; do echo $id >{DRIVER}/unbind; done
	for id in $ids; do echo $id >{DRIVER}/bind; done
	ready
}}
cycle; sleep 3
{_look("before")}
for n in $(seq {CYCLES}); do cycle; done
sleep 3
{_look("after")}
echo '=== end'
""",
        *("--nvme", "4", "--blk", "0", "--append", "cc_swiotlb.idle_ms=500"),
        timeout=400,
    )


def test_nothing_is_split():
    """Drivers come and go, and no entry of the direct map is split."""
    result = _rebind()
    assert _others(result, "after") == _others(result, "before")
    assert _split(result, "after") == _split(result, "before")


def test_all_comes_back():
    """Memory that was lent to a driver comes back when the driver is gone."""
    result = _rebind()
    before, after = (
        {
            key: result.count(key, f"stats {name}")
            for key in ("lent_bytes", "shared_bytes")
        }
        for name in ("before", "after")
    )
    assert after["lent_bytes"] == before["lent_bytes"] > 0
    assert abs(after["shared_bytes"] - before["shared_bytes"]) <= CHUNK_BYTES
    assert result.count("misuse", "stats after") == 0


@pytest.mark.parametrize("convert_us", ["0", "260"])
def test_scattered_readers(convert_us):
    """160 readers of scattered buffers, whose lists are allocated in atomic context."""
    jobs = " ".join(f"--name=n{n} --filename=/dev/nvme{n}n1" for n in range(20))
    result = vm.run(
        f"""
{vm.wait_ready()}
fio --thread --direct=1 --ioengine=psync --rw=read --bs=1M --numjobs=8 --size=64M \\
	--mem=malloc --offset_increment=64M --time_based --runtime=8 --group_reporting \\
	{jobs} >/tmp/fio 2>&1
echo "fio: $?"
{vm.counters()}
""",
        *("--nvme", "20", "--blk", "0", "--latency-ms", "100", "--cpus", "4"),
        *("--mem", "4G", "--convert-us", convert_us),
        timeout=300,
    )
    assert "fio: 0" in result.stdout, result.tail()
    assert not vm.lines(result.console, "DMA pool exhausted|suitable pool")
    assert result.count("misuse") == 0
