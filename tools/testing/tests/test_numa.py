# SPDX-License-Identifier: GPL-2.0
"""Guests with several NUMA nodes: whose slots are used, and what becomes of them."""

import pytest
import vm

NODES = "/sys/kernel/debug/cc_swiotlb/nodes"
DRAIN = "/sys/kernel/debug/cc_swiotlb/drain"
REFILL = "/sys/kernel/tracing/events/cc_swiotlb/cc_swiotlb_refill/enable"
TRACE = "/sys/kernel/tracing/trace"

# CPUs 0 and 1 are on node 0, 2 and 3 on node 1.
MACHINE = ("--cpus", "4", "--mem", "1G", "--nodes", "2", "--blk", "0")
IDLE_MS = 600

LIBRARY = f"""
{vm.wait_ready()}
nodes() {{ echo "=== nodes $1"; cat {NODES}; }}
shared() {{ awk '$1 == "shared_bytes:" {{ print $2 }}' {vm.STATS}; }}

# A disk, the CPUs it is used from, and what fio is to do.
verified() {{
	disk=$1 cpus=$2
	shift 2
	fio --name=n --filename=/dev/$disk --cpus_allowed=$cpus --direct=1 --thread \\
		--ioengine=libaio --iodepth=8 --rw=randwrite --size=8M --verify=crc32c \\
		--do_verify=1 --verify_fatal=1 "$@" >/tmp/fio-$disk 2>&1 ||
		cat /tmp/fio-$disk
	grep -c 'err= 0' /tmp/fio-$disk
}}

# Waits until no more than $1 bytes are shared, or not for ever.
back() {{
	for _ in $(seq 150); do
		[ "$(shared)" -le "$1" ] && break
		sleep 0.1
	done
	echo "back: $(shared)"
}}
"""


def _table(result: vm.Result, name: str) -> dict[tuple[int, str], dict[str, int]]:
    """A section that shows the file `nodes`, by node and class."""
    header, *rows = [line.split() for line in result.section(name).splitlines()]
    assert header[:2] == ["node", "class"], header
    return {
        (int(row[0]), row[1]): dict(zip(header[2:], map(int, row[2:]), strict=True))
        for row in rows
    }


def _require_sums(result: vm.Result, nodes: str = "nodes end") -> None:
    """All CPUs are drained: each slot is in a depot or in use."""
    table = _table(result, nodes)
    for name, row in result.classes().items():
        of_class = [of_node for key, of_node in table.items() if key[1] == name]
        for column in ("slots", "depot"):
            assert sum(of_node[column] for of_node in of_class) == row[column], name
        assert row["slots"] == row["depot"] + row["used"], name
        per_span = (512 << 10) // _slot_bytes(name)
        # A node has whole spans, however its slots came and went.
        assert not any(of_node["slots"] % per_span for of_node in of_class), name
    for key in ("exhausted", "legacy", "misuse", "leaked_bytes"):
        assert result.count(key) == 0, key


def _slot_bytes(name: str) -> int:
    return int(name[:-1]) << 10 if name.endswith("K") else int(name)


@vm.once
def _local() -> vm.Result:
    return vm.run(
        f"""
{LIBRARY}
echo 0 >{vm.PARAMETERS}/idle_ms
echo 1 >{DRAIN}
nodes start
echo "=== near"; verified nvme0n1 0-1 --bs=4k
nodes near
echo 1 >{DRAIN}
echo "=== far"; verified nvme1n1 2-3 --bs=4k
nodes far
# From both at a time, with blocks of all classes.
verified nvme0n1 3 --bsrange=512-256k >/tmp/a &
verified nvme1n1 0 --bsrange=512-256k >/tmp/b &
verified nvme2n1 1,2 --bsrange=4k-128k --cpus_allowed_policy=split --numjobs=2 \\
	--offset_increment=8M --group_reporting >/tmp/c
wait
echo "=== both"; cat /tmp/a /tmp/b /tmp/c
echo 1 >{DRAIN}
nodes end
{vm.counters()}
""",
        *(*MACHINE, "--nvme", "3", "--latency-ms", "5"),
    )


def test_verified():
    """I/O from CPUs of both nodes, alone and at a time: every byte is right."""
    result = _local()
    for name, disks in (("near", 1), ("far", 1), ("both", 3)):
        assert result.section(name) == "1\n" * disks, result.tail()
    _require_sums(result)


@pytest.mark.parametrize("name,node", [("near", 0), ("far", 1)])
def test_local(name, node):
    """Slots come from the depot of the node whose CPUs map, and from no other."""
    result = _local()
    assert sum(row["out"] for row in _table(result, "nodes start").values()) == 0
    out = [_table(result, f"nodes {name}")[place, "4K"]["out"] for place in (0, 1)]
    # What the CPUs hold afterwards is what they have fetched.
    assert out[node] > 0, out
    assert out[1 - node] == 0, out


@vm.once
def _torture(module) -> vm.Result:
    # Threads move from CPU to CPU with what they have mapped, and leave some to others.
    return vm.run(
        f"""
{LIBRARY}
sh /host/torture/run -cm /host/{module.name} 15 hold=3 cycle=3000
echo "torture: $?"
echo {IDLE_MS} >{vm.PARAMETERS}/idle_ms
# 20 MiB in whole spans on each node, and less than a chunk spare on each.
back {36 << 20}
sleep 1
echo 1 >{DRAIN}
nodes end
{vm.counters()}
""",
        *(*MACHINE, "--nvme", "0", "--append", "lpj=20000000"),
        *("--add", str(vm.TESTING / "torture"), "--add", str(module)),
    )


def test_torture(torture_module):
    """Mappings that end on another node than they began leave the sums exact."""
    result = _torture(torture_module)
    said = vm.lines(result.stdout, "^torture: ")
    assert said[-2:] == ["torture: passed", "torture: 0"], said
    assert int(vm.lines(result.stdout, "^crossed ")[0].split()[1]) > 1000
    table = _table(result, "nodes end")
    for name, row in result.classes().items():
        per_span = (512 << 10) // _slot_bytes(name)
        rows = [table[node, name] for node in (0, 1)]
        assert row["slots"] == row["depot"] + row["used"], name
        assert not any(of_node["slots"] % per_span for of_node in rows), name


def test_given_back_on_both(torture_module):
    """After a load each node has its watermark and less than a span of it more."""
    result = _torture(torture_module)
    assert result.count("given_back") > 4
    for (node, name), row in _table(result, "nodes end").items():
        per_span = (512 << 10) // _slot_bytes(name)
        assert row["slots"] >= min(row["watermark"], per_span), (node, name)
        assert row["slots"] < row["watermark"] + 2 * per_span, (node, name, row)
    assert result.count("shared_bytes") <= 36 << 20


def test_spare_of_another_node():
    """At the cap a node grows into what another one has spare, or can do without."""
    result = vm.run(
        f"""
{LIBRARY}
echo 3600000 >{vm.PARAMETERS}/idle_ms
fio --name=n --filename=/dev/nvme0n1 --cpus_allowed=0-1 --direct=1 --thread --rw=read \\
	--ioengine=libaio --iodepth=16 --bs=512k --size=16M --time_based --runtime=1 \\
	>/tmp/fio 2>&1 || cat /tmp/fio
shared >{vm.PARAMETERS}/max
nodes before
echo 1 >{REFILL}
fio --name=n --filename=/dev/nvme1n1 --cpus_allowed=2-3 --direct=1 --thread --rw=read \\
	--ioengine=libaio --iodepth=64 --bs=512k --size=64M --time_based --runtime=2 \\
	>/tmp/fio 2>&1 || cat /tmp/fio
echo '=== refills'; grep -c 'cc_swiotlb_refill: node=1 ' {TRACE}
echo 1 >{DRAIN}
nodes end
{vm.counters()}
""",
        *(*MACHINE, "--nvme", "2", "--latency-ms", "20"),
        *("--append", "cc_swiotlb.watermark=4M"),
    )
    assert int(result.section("refills")) > 0, result.tail()
    before, after = (_table(result, f"nodes {name}") for name in ("before", "end"))
    assert after[1, "512K"]["slots"] > before[1, "512K"]["slots"], result.tail()
    assert result.count("shared_peak_bytes") == result.count("shared_bytes")
    for name, row in result.classes().items():
        assert row["slots"] == row["depot"] + row["used"], name


@pytest.mark.parametrize(
    "nodes,empty",
    [("4:512M,0:512M", {1}), ("2:1G,2:0M", set()), ("2:944M,2:80M", set())],
    ids=["no-cpus", "no-memory", "little-memory"],
)
def test_lopsided(nodes, empty):
    """A node without CPUs has no slots; one without memory has, in others' memory."""
    result = vm.run(
        f"""
{LIBRARY}
verified nvme0n1 0 --bsrange=512-256k >/tmp/a &
verified nvme1n1 3 --bsrange=512-256k >/tmp/b
wait
echo "=== both"; cat /tmp/a /tmp/b
echo 1 >{DRAIN}
nodes end
{vm.counters()}
""",
        *("--cpus", "4", "--mem", "1G", "--nodes", nodes, "--nvme", "2", "--blk", "0"),
    )
    assert result.section("both") == "1\n1\n", result.tail()
    _require_sums(result)
    for (node, name), row in _table(result, "nodes end").items():
        if node in empty:
            assert row["slots"] == row["watermark"] == 0, (node, name)
        else:
            assert row["slots"] >= row["watermark"] > 0, (node, name)
