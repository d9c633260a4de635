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
SHOW = f"""
for name in enable watermark max from_device; do
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
    """Refused with a message that shows the right form."""
    said = vm.lines(
        _bad().section("log"), rf"cc_swiotlb: watermark={re.escape(value)} "
    )
    assert len(said) == 1, said
    assert FORM.search(said[0]), said[0]


def test_default_instead():
    """Where nothing could be understood, the default is used."""
    assert _bad().section("watermark") == _default().section("watermark")
    assert _bad().classes()["4K"]["watermark"] > 0
    assert _bad().stats()["state"] == "on"


@pytest.mark.parametrize(
    "value", ["32M", "512:256,2K:2048,4K:4096,16K:512,512K:16", "4K:1000"]
)
def test_good_watermark(value):
    """Both forms are taken, shown, and acted on."""
    result = _boot(f"cc_swiotlb.watermark={value}")
    shown = result.section("watermark").strip()
    default = _default().section("watermark").strip()
    assert shown != default, "the default is still there"
    classes = result.classes()
    if ":" in value:
        for pair in value.split(","):
            name, slots = pair.split(":")
            assert classes[name]["watermark"] == int(slots)
            assert pair in shown, f"{pair} is not in {shown}"
    else:
        total = sum(_bytes(name) * row["watermark"] for name, row in classes.items())
        assert 16 << 20 <= total <= 32 << 20, f"{total} bytes in all"


def _bytes(name: str) -> int:
    return int(name[:-1]) << 10 if name.endswith("K") else int(name)


def test_watermark_at_run_time():
    """Written to sysfs: the good are acted on, the bad change nothing."""
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
for i in $(seq 50); do
	free=$(awk '$1 == "4K" {{ print $2 - $6 }}' {vm.CLASSES})
	[ "$free" -ge 12000 ] && break
	sleep 0.1
done
echo '=== filled'; echo "$free"
""",
    )
    assert "took" not in result.stdout, result.tail()
    assert "refused" not in result.stdout, result.tail()
    assert result.section("before") == result.section("after bad")
    assert "4K:12000" in result.section("after good")
    assert int(result.section("filled")) >= 12000


def test_default():
    """On by default in a confidential guest, and small."""
    result = _default()
    assert result.stats()["state"] == "on"
    assert result.section("from_device").strip() == "preserve"
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


def test_max():
    """cc_swiotlb.max= caps the shared memory, whatever the watermark asks."""
    result = _boot("cc_swiotlb.max=24M cc_swiotlb.watermark=64M")
    assert result.count("max_bytes") == 24 << 20
    assert result.count("shared_peak_bytes") <= 24 << 20


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
