# SPDX-License-Identifier: GPL-2.0
"""The files in /sys/kernel/mm/cc_swiotlb: all there, documented, and true."""

import re

import vm

FOLDER = "/sys/kernel/mm/cc_swiotlb"
ABI = vm.ROOT / "Documentation/ABI/testing/sysfs-kernel-mm-cc_swiotlb"
TRACING = "/sys/kernel/tracing"
# Values that change by themselves between two looks.
LIVELY = ("free", "cached", "in_use", "in_use_bytes", "mapped", "unmapped")
LIVELY += ("bound_bytes", "unbound_bytes")


def _show_all(name: str) -> str:
    """Prints each file as "path: value"."""
    return f"echo '=== {name}'; cd {FOLDER}; grep -r . . | sed 's/^..//; s/:/: /'; cd /"


@vm.once
def _run() -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}
echo '=== modes'; find {FOLDER} -type f ! -perm 444
{_show_all("before")}
echo 16384 >{TRACING}/buffer_size_kb
for event in bounced unbounced; do
	echo 1 >{TRACING}/events/swiotlb/swiotlb_$event/enable
done
dd if=/dev/urandom of=/dev/nvme0n1 bs=64k count=64 oflag=direct 2>/dev/null
dd if=/dev/vda of=/dev/null bs=16k count=256 iflag=direct 2>/dev/null
# Until kccd has done what there was to do.
for i in $(seq 100); do
	was=$is is=$(cat {FOLDER}/conversions {FOLDER}/shared_bytes)
	[ "$was" != "$is" ] || break
	sleep 0.5
done
{_show_all("after")}
for event in bounced unbounced; do
	echo 0 >{TRACING}/events/swiotlb/swiotlb_$event/enable
done
echo '=== events'
for event in bounced unbounced; do
	echo "$event: $(grep -c swiotlb_$event: {TRACING}/trace)"
done
{vm.counters()}
""",
        # Nothing is given back, and no CPU is asked for its slots, between two looks.
        *("--append", "cc_swiotlb.idle_ms=0"),
        timeout=120,
    )


def _files(section: str) -> dict[str, str]:
    found = dict(re.findall(r"^(\S+): (.*)$", _run().section(section), re.M))
    assert len(found) > 100, f"nothing in {section}"
    return found


def _growth(name: str) -> int:
    return int(_files("after")[name]) - int(_files("before")[name])


def test_everybody_can_read_everything():
    """All files have mode 0444, and one line."""
    assert _run().section("modes").strip() == ""
    for name, value in _files("before").items():
        assert re.fullmatch(r"\d+|on|none", value), f"{name}: {value}"


def test_agrees_with_events():
    """Each mapping that is traced is counted, and no other."""
    events = dict(re.findall(r"(\w+): (\d+)", _run().section("events")))
    assert int(events["bounced"]) > 64 + 256
    assert _growth("mapped") == int(events["bounced"])
    assert _growth("unmapped") == int(events["unbounced"])


def test_classes_add_up():
    """The totals are the sums over the classes."""
    files = _files("after")
    for name in ("mapped", "unmapped", "mapped_bytes", "bound_bytes"):
        of_classes = [v for key, v in files.items() if key.endswith(f"B/{name}")]
        assert len(of_classes) == 10
        lent = int(files["lent_span_bytes"]) if name == "bound_bytes" else 0
        assert sum(map(int, of_classes)) + lent == int(files[name]), name
    for folder in {key.partition("/")[0] for key in files if "/" in key}:
        size = re.fullmatch(r"slots-(\d+)(B|kB)", folder)
        size = int(size[1]) << (10 if size[2] == "kB" else 0)
        names = [name for name in files if name.startswith(f"{folder}/")]
        row = {name.partition("/")[2]: int(files[name]) for name in names}
        assert row["bound_bytes"] == row["slots"] * size
        assert row["mapped_bytes"] == row["mapped"] * size
        assert row["in_use"] == row["mapped"] - row["unmapped"]
        assert row["slots"] == row["free"] + row["cached"] + row["in_use"]


def test_shared_is_bound_and_unbound():
    """Shared memory is bound or unbound, and between watermark and peak."""
    files = {key: v for key, v in _files("after").items() if "reason" not in key}
    total = {key: int(v) for key, v in files.items() if v.isdigit()}
    assert total["shared_bytes"] == total["bound_bytes"] + total["unbound_bytes"]
    assert total["shared_bytes"] == total["conversion_bytes"] - total["give_back_bytes"]
    assert total["in_use_bytes"] <= total["bound_bytes"]
    assert 0 < total["lent_bytes"] <= total["lent_span_bytes"] <= total["bound_bytes"]
    assert total["bound_bytes"] <= total["demand_bytes"] <= total["peak_bound_bytes"]
    assert total["shared_bytes"] <= total["peak_shared_bytes"] <= total["max_bytes"]
    assert 2 << 20 <= total["watermark_bytes"] <= total["shared_bytes"]


def test_debugfs_says_the_same():
    """The tables in debugfs have the same names and values."""
    stats = dict(re.findall(r"^(\w+): (\w+)$", _run().section("stats"), re.M))
    files = {key: v for key, v in _files("after").items() if "/" not in key}
    assert list(stats) and set(stats) == set(files)
    for name in set(stats) - set(LIVELY):
        if not name.endswith("mapped_bytes"):
            assert stats[name] == files[name], name


def test_each_file_is_documented():
    """The page in Documentation/ABI has the files that there are, and no others."""
    page = ABI.read_text(encoding="utf-8")
    documented = set(re.findall(rf"{FOLDER}/(\S+)", page)) - {"slots-<size>/"}
    there = {re.sub(r"slots-\w+/", "slots-<size>/", name) for name in _files("after")}
    assert documented == there


def test_off():
    """If it serves nothing, there is only its state."""
    result = vm.run(_show_all("off"), "--swiotlb", "legacy", "--blk", "0", timeout=60)
    assert result.section("off").strip() == "state: off"


def test_not_started():
    """If it cannot start, it says why, and is off."""
    result = vm.run(
        f"{_show_all('off')}; {vm.log()}",
        *("--guest", "plain", "--swiotlb", "cc", "--nvme", "0", "--blk", "0"),
        *("--append", f"swiotlb=noforce {vm.LOG_SPACE}"),
        timeout=60,
    )
    assert result.section("off").strip() == "state: off"
    said = vm.lines(result.section("log"), "cc_swiotlb: ")
    assert "swiotlb is off, and nothing is bounced without it" in said[0]
    assert re.search(r"cannot start \(.*\), only the legacy pool serves", said[1])


def test_reason_of_a_refusal():
    """The reason of the last refusal is shown."""
    result = vm.run(
        f"""
{vm.wait_ready()}
fio --name=n --filename=/dev/nvme0n1 --direct=1 --rw=read --bs=1M --size=64M \\
	--numjobs=24 --offset_increment=16M --ioengine=psync --thread --time_based \\
	--runtime=5 >/dev/null 2>&1
{_show_all("after")}
""",
        *("--blk", "0", "--latency-ms", "500", "--cpus", "2"),
        *("--append", "cc_swiotlb.watermark=2M cc_swiotlb.max=4M"),
        timeout=120,
    )
    files = dict(re.findall(r"^(\S+): (.*)$", result.section("after"), re.M))
    assert int(files["refused"]) > 0
    assert files["refused_reason"] == "max"
    of_classes = [int(v) for key, v in files.items() if key.endswith("B/refused")]
    assert sum(of_classes) == int(files["refused"])
