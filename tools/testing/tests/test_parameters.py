# SPDX-License-Identifier: GPL-2.0
"""The parameters on the kernel's command line and in sysfs."""

import re

import pytest
import vm

BAD = {
    "word": "banana",
    "unit": "7Q:3",
    "no slots": "512:",
    "no such class": "3K:100",
    "empty": "",
    "negative": "-1",
    "junk after": "64M,",
    "twice": "4K:1,4K:2",
    "too much": "99999999999999999999",
}
FORM = re.compile(r"512:\d+|64M")
SPAN_BYTES = 512 << 10
# The memory that two CPUs and 1 GiB keep ready: 12 MiB, and one more for each CPU.
DEFAULT = "14M"
SHOW = f"""
for name in enable watermark max idle_ms from_device; do
	echo "=== $name"; cat {vm.PARAMETERS}/$name
done
{vm.counters()}
{vm.log()}
"""


def _boot(argument: str, command: str = SHOW, *options: str) -> vm.Result:
    return vm.run(
        f"{vm.wait_ready()}\n{command}",
        *(f"--append={argument}", "--blk", "0", *options),
        timeout=90,
    )


@vm.once
def _default() -> vm.Result:
    return _boot("")


@vm.once
def _bad() -> vm.Result:
    """All bad values in one boot: each is refused, or the next one hides it."""
    return _boot(" ".join(f"cc_swiotlb.watermark={value}" for value in BAD.values()))


@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_bad_watermark(value):
    """A bad value is refused with a message that shows the right form."""
    said = vm.lines(
        _bad().section("log"), rf"cc_swiotlb: watermark={re.escape(value)} "
    )
    assert len(said) == 1, said
    assert FORM.search(said[0]), said[0]


def test_default_instead():
    """If no value could be understood, the default is used."""
    assert _bad().section("watermark") == _default().section("watermark")
    assert _bad().ready_bytes() >= 14 << 20
    assert _bad().stats()["state"] == "on"


@pytest.mark.parametrize("value", ["32M", "48M"])
def test_total(value):
    """So many bytes are ready, bound to no class, and not many more."""
    result = _boot(f"cc_swiotlb.watermark={value}")
    assert result.section("watermark").strip() == value
    total = int(value[:-1]) << 20
    assert result.ready_bytes() >= total
    # Hardly anything has been in use: the excess is less than two chunks.
    assert result.count("shared_bytes") < total + (4 << 20)
    assert not any(row["watermark"] for row in result.classes().values())
    assert result.count("unbound_bytes") >= total // 2


@pytest.mark.parametrize(
    "value", ["512:256,2K:2048,4K:4096,16K:512,512K:16", "4K:1000", "4K:0,64K:7"]
)
def test_list(value):
    """The classes that are named have what the list says; others are not bound."""
    result = _boot(f"cc_swiotlb.watermark={value}")
    assert result.section("watermark").strip() == value
    named = {name: int(slots) for name, slots in map(_pair, value.split(","))}
    for name, row in result.classes().items():
        assert row["watermark"] == named.get(name, 0), name
        assert row["slots"] - row["in_use"] >= row["watermark"], name
        assert name in named or row["slots"] <= row["in_use"] + _span_slots(name), name
    # And some memory is ready for any other class.
    listed = sum(vm.slot_bytes(name) * slots for name, slots in named.items())
    # Slots that the list keeps are not counted in that, and kccd hears of spans, not of
    # single slots that are in use or with a CPU.
    away = result.count("in_use_bytes") + sum(
        vm.slot_bytes(name) * row["cached"] for name, row in result.classes().items()
    )
    assert result.ready_bytes() + away >= max((14 << 20) - listed, 2 << 20)
    assert result.count("unbound_bytes") >= 2 * SPAN_BYTES


def _pair(item: str) -> list[str]:
    return item.split(":")


def _span_slots(name: str) -> int:
    return SPAN_BYTES // vm.slot_bytes(name)


def test_watermark_at_run_time():
    """Good values that are written to sysfs take effect, bad ones change nothing."""
    path = f"{vm.PARAMETERS}/watermark"
    result = _boot(
        "",
        f"""
echo '=== before'; cat {path}
for bad in banana 7Q:3 512: 3K:100; do
	echo "$bad" > {path} 2>/dev/null && echo "took $bad"
done
echo '=== after bad'; cat {path}
echo '4K:12000' > {path} || echo 'refused 4K:12000'
echo '=== after good'; cat {path}
for i in $(seq 300); do
	free=$(awk '$1 == "4K" {{ print $2 - $6 }}' {vm.CLASSES})
	[ "$free" -ge 12000 ] && break
	sleep 0.1
done
echo '=== filled'; echo "$free"
echo '2K:100,64K:1' > {path} || echo 'refused a list'
echo '=== after list'; cat {path}
for i in $(seq 100); do
	[ "$(awk '$1 == "4K" {{ print $3 }}' {vm.CLASSES})" = 0 ] && break
	sleep 0.1
done
echo '=== classes'; cat {vm.CLASSES}
echo '40M' > {path} || echo 'refused 40M'
echo '=== after total'; cat {path}
for i in $(seq 300); do
	ready=$(awk 'NR == 2 {{ print $5 }}' {vm.NODES})
	[ "$ready" -ge $((40 << 20)) ] && break
	sleep 0.1
done
echo '=== ready'; echo "$ready"
""",
    )
    assert not vm.lines(result.stdout, "^(took|refused) "), result.tail()
    assert result.section("before") == result.section("after bad")
    assert result.section("after good").strip() == "4K:12000"
    assert int(result.section("filled")) >= 12000
    # The new setting replaces the old one: classes that it does not name keep nothing.
    assert result.section("after list").strip() == "2K:100,64K:1"
    classes = result.classes()
    assert {name for name in classes if classes[name]["watermark"]} == {"2K", "64K"}
    assert result.section("after total").strip() == "40M"
    assert int(result.section("ready")) >= 40 << 20


def test_default():
    """On by default in a confidential guest, and small."""
    result = _default()
    assert result.stats()["state"] == "on"
    assert result.section("from_device").strip() == "preserve"
    assert result.section("watermark").strip() == DEFAULT
    assert result.section("idle_ms").strip() == "auto"
    assert result.count("legacy_bytes") < 16 << 20, "the legacy pool did not shrink"
    assert 0 < result.count("shared_bytes") <= result.count("max_bytes")


def test_off():
    """cc_swiotlb.enable=0: swiotlb serves, at its full size."""
    result = _boot(
        "cc_swiotlb.enable=0",
        "dd if=/dev/nvme0n1 of=/dev/null bs=64k count=64 iflag=direct;"
        f" {vm.counters()};"
        f" {vm.show('slots', '/sys/kernel/debug/swiotlb/io_tlb_nslabs')}",
    )
    assert result.stats() == {"state": "off"}
    assert int(result.section("slots")) * 2048 >= 64 << 20


def test_off_elsewhere():
    """Unset in an ordinary guest: off. Set: on."""
    # ccvm says cc_swiotlb.enable=1 in a plain guest; the last one counts.
    result = _boot("cc_swiotlb.enable=-1", SHOW, "--guest", "plain")
    assert result.stats() == {"state": "off"}
    result = _boot("", SHOW, "--guest", "plain")
    assert result.stats()["state"] == "on"
    # There it serves devices that do not reach our slots, and costs no conversion.
    assert result.count("legacy_bytes") >= 64 << 20, "the legacy pool did shrink"


def test_max():
    """cc_swiotlb.max= caps the shared memory, whatever the watermark asks."""
    result = _boot("cc_swiotlb.max=24M cc_swiotlb.watermark=64M")
    assert result.count("max_bytes") == 24 << 20
    assert 22 << 20 < result.count("peak_shared_bytes") <= 24 << 20


def test_from_device_zero(module):
    """cc_swiotlb.from_device=zero: no private byte goes out for a read."""
    result = vm.run(
        f"{vm.wait_ready()}; cat {vm.PARAMETERS}/from_device;"
        f" insmod /host/{module.name} zero=1 quick=1 test='[!p]*'; echo \"insmod: $?\"",
        *("--append", "cc_swiotlb.from_device=zero", "--add", str(module)),
        timeout=200,
    )
    assert "zero" in result.stdout
    assert "insmod: 0" in result.stdout, result.tail()
