# SPDX-License-Identifier: GPL-2.0
"""The benchmark measures and judges as it says; how fast it is does not matter here."""

import importlib
import itertools
import re

import pytest
import vm
from lib import kernel
from lib.bench import module, targets
from lib.failure import Failure

SIZES = (512, 4096, 262144)
FEW = f"sizes={','.join(map(str, SIZES))} depths=1,4 slice_us=100"
ROUNDS = 5
DIRECTIONS = ("TO_DEVICE", "FROM_DEVICE", "BIDIRECTIONAL")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The benchmark module for the guest kernel."""
    return module.build(kernel.build("guest"), tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("swiotlb", ["cc", "legacy"])
def test_every_case_is_measured(built, swiotlb):
    """All patterns, sizes, depths, directions; by the allocator that was asked for."""
    command = (
        f"{vm.wait_ready()}; insmod /host/{built.name} {FEW} age=10000 && "
        f"echo '=== results' && cat {module.RESULTS} && {vm.counters()}"
    )
    options = ("--add", str(built), "--swiotlb", swiotlb, "--nvme", "0", "--blk", "0")
    result = vm.run(command, *options, timeout=200)
    found = module.parse(result.section("results").strip())
    wanted = itertools.product(("single", "sg", "net"), SIZES, (1, 4), (1,), DIRECTIONS)
    assert set(found) == {module.Case(*each) for each in wanted}
    assert all(time.pair > 0 and time.floor > 0 for time in found.values())
    if swiotlb == "cc":
        assert result.count("mapped") > 10000
        assert result.count("mapped") == result.count("unmapped")
        assert result.count("refused") == 0


def test_the_longest_way_is_measured(built):
    """More is mapped than a CPU keeps, and some maps and unmaps take longer."""
    result = vm.run(
        f"{vm.wait_ready()}; insmod /host/{built.name} longest=1 sizes=512,4096 && "
        f"echo '=== results' && cat {module.RESULTS} && {vm.counters()}",
        *("--add", str(built), "--nvme", "0", "--blk", "0"),
        timeout=120,
    )
    found = [
        list(map(int, line.split()))
        for line in result.section("results").strip().splitlines()
    ]
    assert [size for size, _, _ in found] == [512, 4096]
    assert all(mapped > 0 and unmapped > 0 for _, mapped, unmapped in found)
    assert result.count("mapped") == result.count("unmapped") >= 4 * 2 * 1024


def test_reading_sysfs_costs_a_mapping_nothing(built):
    """While all of sysfs is read a hundred times a second, a map takes as many
    instructions as without that.
    """
    folder = "/sys/kernel/mm/cc_swiotlb"
    measure = f"insmod /host/{built.name} modes=single sizes=4096 depths=1 slice_us=500"
    result = vm.run(
        f"""
{vm.wait_ready()}
measure() {{
	for i in $(seq {ROUNDS}); do
		{measure} || exit 1
		echo "=== $1 $i"
		cat {module.RESULTS}
		rmmod {module.NAME}
	done
}}
measure alone
read_all() {{
	find {folder} -type f -exec cat '{{}}' +
}}
read_on() {{
	while :; do
		read_all >/dev/null
		echo >>/tmp/times
		usleep 10000
	done
}}
read_on &
sleep 1
measure beside
echo '=== reader'; wc -l </tmp/times; read_all | wc -l
""",
        *("--add", str(built), "--guest", "plain", "--swiotlb", "cc", "--cpus", "1"),
        *("--nvme", "0", "--blk", "0", "--mem", "1G"),
        *("--accel", "tcg,thread=single", "--qemu-append", "-icount shift=0,sleep=off"),
        timeout=200,
    )
    # The reader may run in any of the rounds, but not in each of many.
    alone, beside = (
        module.summarise(
            [
                module.parse(result.section(f"{name} {i + 1}").strip())
                for i in range(ROUNDS)
            ]
        )
        for name in ("alone", "beside")
    )
    times, lines = map(int, result.section("reader").split())
    assert times > 50 and lines > 100
    # The number of clock reads differs, which makes for an instruction or two.
    for case, time in alone.items():
        assert not beside[case].error and not beside[case].refused, case
        assert beside[case].least - time.least < 4, case


def test_what_is_no_result_ends_it():
    """Output that is cut short or missing ends the benchmark."""
    good = "single 512 64 1 TO_DEVICE 80000 20000 0"
    assert module.parse(good) == {
        module.Case("single", 512, 64, 1, "TO_DEVICE"): module.Time(80.0, 20.0)
    }
    for bad in ("single 512", ""):
        with pytest.raises(Failure):
            module.parse(f"{good}\n{bad}" if bad else "")


def test_refusals_are_told():
    """A case that cannot run, or is refused mappings, is named, and misses."""
    case = module.Case("single", 262144, 64, 2, "TO_DEVICE")
    name = "mappings refused while measuring"
    for line, said in (
        ("80000 20000 3", "256 KiB, 64 in flight, TO_DEVICE, 2 threads: 3"),
        ("error -12", "256 KiB, 64 in flight, TO_DEVICE, 2 threads: error -12"),
    ):
        rounds = [module.parse(f"single 262144 64 2 TO_DEVICE {line}")]
        data = _data()
        row = module.record("cc", case, module.summarise(rounds)[case])
        data["scaling"].append(row)
        judged = {each.name: each for each in targets.judge(data)}
        assert not judged[name].met and said in judged[name].measured
        # It does not count as a figure: everything else is judged without it.
        assert ("error" in row) == (row not in targets.measured(data)["scaling"])
    # A round that could not be measured does not spoil the others.
    good = module.parse("single 262144 64 2 TO_DEVICE 80000 20000 0")
    assert module.summarise([good, rounds[0]])[case].pair == 80.0


def _data(cc_ns: float = 80.0, legacy_ns: float = 1000.0, beyond: int = 120) -> dict:
    """Made-up figures for every part of the report."""
    rows = []
    for impl, ns in (("cc", cc_ns), ("legacy-dynamic", legacy_ns)):
        for mode, size, depth, direction in itertools.product(
            ("single", "sg", "net"), (512, 4096, 65536, 262144), (1, 64), DIRECTIONS
        ):
            case = module.Case(mode, size, depth, 1, direction)
            rows.append(module.record(impl, case, module.Summary(ns, ns, ns, 20.0)))
    scaling = [
        module.record(
            impl,
            module.Case("single", 4096, 64, threads, "TO_DEVICE"),
            module.Summary(100.0, 99.0, 101.0, 50.0),
        )
        for impl in ("cc", "legacy-dynamic")
        for threads in (1, 2)
    ]
    steady = [
        module.record(
            impl,
            module.Case("single", 4096, 64, 1, "TO_DEVICE"),
            module.Summary(cc_ns, cc_ns, cc_ns, 50.0),
        )
        for impl in ("8M", "4G", "aged")
    ]
    counts = {"cc": beyond, "legacy-dynamic": 2230}
    return {
        "map_unmap": rows,
        "scaling": scaling,
        "steady": steady,
        "instructions": [
            {
                "impl": impl,
                "mode": mode,
                "size": 64,
                "in_flight": 1,
                "dir": "TO_DEVICE",
                "instructions": count + 270,
                "beyond": count,
            }
            for impl, count in counts.items()
            for mode in ("single", "net")
        ],
        "fio": [
            {
                "impl": impl,
                "rw": "randread",
                "bs": 4096,
                "jobs": 1,
                "iodepth": 1,
                "iops": 1000.0,
                "iops_min": 990.0,
                "iops_max": 1010.0,
                "mib_per_s": 3.9,
            }
            for impl in ("cc", "legacy-dynamic")
        ],
    }


def _verdicts(data: dict) -> dict[str, bool]:
    return {each.name: each.met for each in targets.judge(data)}


def test_targets_are_met_and_missed():
    """Each target can be met, and each can be missed."""
    good = _verdicts(_data())
    assert len(good) == 10 and all(good.values()), good
    slow = _verdicts(_data(cc_ns=400.0, beyond=126))
    assert not slow["map and unmap beside a bare copy"]
    assert not slow["beyond the copy, against legacy-dynamic"]
    assert not slow["instructions beyond the copy and the DMA layer's own"]
    slower = _verdicts(_data(cc_ns=1001.0, beyond=2231))
    assert not slower["two syncs of a mapped buffer, in ns up to 4 KiB"]
    assert not slower["two syncs of a mapped buffer, in instructions"]
    data = _data()
    data["steady"][1]["ns_per_pair"] *= 1.06
    data["steady"][2]["ns_per_pair"] *= 1.06
    data["scaling"][1]["ns_per_pair"] *= 1.2
    data["fio"][0]["iops"] = 980.0
    worse = _verdicts(data)
    for name in (
        "4 GiB shared",
        "after a million mappings",
        "two threads against one",
        "fio against legacy-dynamic",
    ):
        assert not worse[name], worse


def test_report_is_one_page(tmp_path):
    """Every plot is in it, and it needs no other file."""
    report = importlib.import_module("lib.bench.report")
    page = tmp_path / "report.html"
    report.write(_data(), "a test", page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == len(report.FIGURES)
    assert "10 of 10 targets met" in text
    assert not re.search(r'(?:src|href)="(?!#)', text.replace("xlink:href", "href"))
