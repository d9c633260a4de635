# SPDX-License-Identifier: GPL-2.0
"""cc_swiotlb_stat, the tool that shows the state, on folders made here; in guests."""

import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time

import pytest
import stat_tool
import vm
from stat_tool import HEALTHY, MIB, SLOTS, TROUBLE, UNKNOWN, allocator, run, tool, write

LINES = 900
SIZE = 3 * MIB


@pytest.fixture
def healthy(tmp_path):
    """The folder of a healthy allocator."""
    return allocator(tmp_path / "healthy")


# What it is made of.


def test_needs_nothing():
    """One file that runs in a guest without libraries, and is not large."""
    said = subprocess.run(
        ["readelf", "-lWd", tool()], capture_output=True, text=True, check=True
    ).stdout
    assert "INTERP" not in said and "NEEDED" not in said, said
    assert os.path.getsize(tool()) < SIZE


def test_sources_are_clean(tmp_path):
    """clippy and rustfmt have nothing to say."""
    sources = shutil.copytree(stat_tool.FOLDER, tmp_path / "sources")
    cache = f"{os.environ['CC_SWIOTLB_CACHE']}/rust/cc_swiotlb_stat"
    settings = {"CARGO_HOME": f"{cache}/cargo", "CARGO_TARGET_DIR": f"{cache}/target"}
    clippy = "cargo clippy --quiet --release -- -D warnings"
    for words in (clippy, "cargo fmt --check"):
        done = subprocess.run(
            words.split(),
            cwd=sources,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_is_small():
    """Small enough to be read."""
    sources = list(stat_tool.FOLDER.glob("src/*.rs"))
    lines = sum(len(path.read_text().splitlines()) for path in sources)
    assert len(sources) > 5 and lines < LINES, lines


# Output for people.

SCREEN = """\
cc_swiotlb is on
shared     34.0 MiB at most   512.0 MiB peak       40.0 MiB growth/s          -
bound      20.0 MiB unbound    14.0 MiB in use     10.0 MiB of late    22.0 MiB
watermark  14.0 MiB legacy      4.0 MiB lost            0 B refused           0
mapped        12.3M mapped/s          - bytes/s           - misuse            0
converted  34.0 MiB times            17 each        12.1 ms failed            0
gave back   6.0 MiB times             3 each        11.0 ms failed            0
CLASS      BOUND   SLOTS  IN USE    FREE CACHED   MAPPED  LARGER  LEGACY REFUSED
512B     2.0 MiB   1,024     124     800    100     1.2M       0       0       0
""".splitlines()


def test_once(healthy):
    """All values, in 80 columns."""
    title, *lines = run("--once", "--sysfs", healthy).splitlines()
    title, date, clock, zone = re.split(r" {2,}| (?=\d\d:|UTC)", title)
    then = time.strptime(f"{date} {clock} {zone}", "%Y-%m-%d %H:%M:%S %Z")
    assert abs(time.mktime(then) - time.mktime(time.gmtime())) < 60
    lines = [title, *(line.rstrip() for line in lines)]
    assert lines[: len(SCREEN)] == SCREEN
    assert [line.split()[0] for line in lines[8:-1]] == stat_tool.CLASSES
    assert lines[-1] == "Nothing is wrong."
    assert max(map(len, lines)) <= 80


def test_not_a_terminal(healthy):
    """If the output is a pipe, the default is --once."""
    assert (
        run("--sysfs", healthy).splitlines()[1:]
        == (run("--once", "--sysfs", healthy).splitlines()[1:])
    )


WORDS = {
    "slow": (
        {"refused": 4711, "refused_reason": "slow"},
        "4,711 mappings refused, kccd was still converting memory:"
        " raise cc_swiotlb.watermark=.",
    ),
    "max": (
        {"refused": 1, "refused_reason": "max"},
        "1 mappings refused, cc_swiotlb.max= was reached: raise cc_swiotlb.max=.",
    ),
    "memory": (
        {"refused": 1, "refused_reason": "memory"},
        "1 mappings refused, there was no memory to convert:"
        " raise cc_swiotlb.watermark=.",
    ),
    "host": (
        {"refused": 1, "refused_reason": "host"},
        "1 mappings refused, the host refused to share memory:"
        " no parameter helps, look at the host.",
    ),
    "oversize alone": (
        {"refused": 1, "refused_reason": "oversize"},
        "1 mappings refused, no slot can hold them: no parameter helps.",
    ),
    "newer kernel": (
        {"refused": 1, "refused_reason": "moon"},
        "1 mappings refused, the reason is not known: see dmesg | grep cc_swiotlb.",
    ),
    "near max": (
        {"bound_bytes": 480 * MIB},
        "480.0 MiB bound of at most 512.0 MiB: raise cc_swiotlb.max=.",
    ),
    "leaked": (
        {"leaked_bytes": 2 * MIB},
        "2.0 MiB in an unknown state: no parameter helps, look at the host.",
    ),
    "conversions": (
        {"conversion_failures": 3},
        "3 conversions failed: no parameter helps, look at the host.",
    ),
    "give-backs": (
        {"give_back_failures": 3},
        "3 give-backs failed: no parameter helps, look at the host.",
    ),
    "legacy": (
        {"fallback_legacy": 1234569, "fallback_early": 9},
        "1.2M mappings left to the legacy pool: raise cc_swiotlb.watermark=.",
    ),
    "larger": (
        {"fallback_larger": 12},
        "12 mappings served by a larger class: raise cc_swiotlb.watermark=.",
    ),
    "unreachable": (
        {"fallback_unreachable": 12, "fallback_legacy": 12},
        "12 mappings of devices that reach no slot:"
        " swiotlb= sets the size of their pool.",
    ),
    "oversize": (
        {"fallback_oversize": 12, "fallback_legacy": 12},
        "12 mappings larger than any slot: no parameter helps.",
    ),
    "short of memory": (
        {"allocation_failures": 12},
        "12 times memory was short: raise cc_swiotlb.watermark=.",
    ),
    "misuse": (
        {"misuse": 1},
        "1 wrong calls by a defective driver: see dmesg | grep cc_swiotlb.",
    ),
}


@pytest.mark.parametrize(("changes", "words"), WORDS.values(), ids=WORDS)
def test_words(tmp_path, changes, words):
    """The problem and what helps, in words: nothing else, in one line of a terminal."""
    lines = run("--once", "--sysfs", allocator(tmp_path, changes)).splitlines()
    assert lines[18:] == [words]


def test_worst_first(tmp_path):
    """Problems come before notes that are good to know."""
    changes = {"fallback_larger": 1, "misuse": 1, "leaked_bytes": 1}
    lines = run("--once", "--sysfs", allocator(tmp_path, changes)).splitlines()
    assert [line.split()[1] for line in lines[18:]] == ["B", "wrong", "mappings"]


# Output for programs.


def test_json(healthy):
    """One line with each value under the name of its file."""
    text = run("--json", "--sysfs", healthy)
    assert text.count("\n") == 1
    said = json.loads(text)
    assert abs(said.pop("time_ms") / 1000 - time.time()) < 60
    classes = said.pop("classes")
    assert said == HEALTHY
    assert [each.pop("class") for each in classes] == stat_tool.CLASSES
    sizes = [512, *(2048 << step for step in range(9))]
    assert classes == [SLOTS | {"slot_bytes": size} for size in sizes]


def _metrics(text: str) -> dict[str, list[str]]:
    """The names of metrics and their lines, once the format is found to be right."""
    metrics: dict[str, list[str]] = {}
    for block in re.split(r"^(?=# HELP)", text, flags=re.M)[1:]:
        top, kind, *lines = block.splitlines()
        name = re.fullmatch(r"# HELP (cc_swiotlb_[a-z_]+) \S.*\.", top)[1]
        assert name not in metrics
        metrics[name] = lines
        assert kind == f"# TYPE {name} " + (
            "counter" if name.endswith("_total") else "gauge"
        )
        for line in lines:
            assert re.fullmatch(rf'{name}({{[a-z]+="\w+"}})? \d+(\.\d+)?', line), line
    return metrics


def test_prom(healthy):
    """Each file is a metric, in base units."""
    metrics = _metrics(run("--prom", "--sysfs", healthy))
    one, ten = "cc_swiotlb_", "cc_swiotlb_class_"
    assert len(metrics) == len(HEALTHY) + len(SLOTS)
    assert metrics[f"{one}enabled"] == [f"{one}enabled 1"]
    name = f"{one}refused_reason"
    assert metrics[name] == [f'{name}{{reason="none"}} 1']
    assert metrics[f"{one}shared_bytes"] == [f"{one}shared_bytes {34 * MIB}"]
    name = f"{one}conversion_seconds_total"
    assert metrics[name] == [f"{name} 0.2057"]
    name = f"{ten}mapped_total"
    assert metrics[name] == [
        f'{name}{{class="{each}"}} 1234567' for each in stat_tool.CLASSES
    ]


@pytest.mark.parametrize(
    "name", ["prometheus/cc_swiotlb.rules.yml", "grafana/cc_swiotlb.json"]
)
def test_metrics_exist(healthy, name):
    """The metrics that the alerts and the dashboard name are printed."""
    known = set(_metrics(run("--prom", "--sysfs", healthy)))
    text = (stat_tool.FOLDER / name).read_text()
    if name.endswith(".json"):
        queries = [
            target["expr"]
            for panel in json.loads(text)["panels"]
            for target in panel["targets"]
        ]
        queries.append(json.loads(text)["templating"]["list"][1]["query"])
    else:
        queries = re.findall(r"expr: (.*)", text)
        assert 0 < len(queries) <= 4
    for query in queries:
        named = set(re.findall(r"cc_swiotlb_\w+", query))
        assert named and named <= known, f"{query}: {named - known}"


CHECKS = {
    "well": ({}, 0, "OK: nothing is wrong"),
    "note": ({"fallback_larger": 1}, 0, "OK: 1 mappings served by"),
    "off": ({"state": "off"}, 0, "OK: cc_swiotlb is off"),
    "since boot": (TROUBLE, 1, "WARNING: 50 mappings refused"),
    "legacy": ({"fallback_legacy": 1}, 1, "WARNING: 1 mappings left"),
    "lost": ({"leaked_bytes": 1}, 2, "CRITICAL: 1 B in an unknown state"),
}


@pytest.mark.parametrize(("changes", "status", "words"), CHECKS.values(), ids=CHECKS)
def test_check(tmp_path, changes, status, words):
    """One line and a status for a monitor."""
    folder = allocator(tmp_path, changes)
    said = run("--check", "--interval", "0.1", "--sysfs", folder, status=status)
    assert said.startswith(f"CC_SWIOTLB {words}") and said.count("\n") == 1, said


@pytest.mark.parametrize("name", ["refused", "conversion_failures"])
def test_check_growing(healthy, name):
    """A problem that gets worse meanwhile is critical, and the tool says how fast."""
    write(healthy, {name: 7})
    over = threading.Event()

    def grow():
        for value in itertools.count(8):
            if over.wait(0.02):
                return
            write(healthy, {name: value})

    growth = threading.Thread(target=grow)
    growth.start()
    try:
        said = run("--check", "--interval", "1", "--sysfs", healthy, status=2)
    finally:
        over.set()
        growth.join()
    found = re.match(r"CC_SWIOTLB CRITICAL: ([\d,]+) \(([\d.]+)/s\) ", said)
    # The growth of a second or more, however busy the host is; test_replay has an exact
    # rate.
    assert found, said
    assert 0 < float(found[2]) <= 1.01 * (int(found[1].replace(",", "")) - 7), said


# Kernels that differ.

WAYS = ["--once", "--json", "--prom", "--advise", "--check"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", [None, "", "-1", "12 apples", "9" * 30, "\x1b[31m"])
def test_files_differ(tmp_path, way, content):
    """A file that is missing or makes no sense is unknown, and the others are shown."""
    changes = dict.fromkeys(HEALTHY, content)
    changes["conversions"] = HEALTHY["conversions"]
    classes = dict.fromkeys(SLOTS, content) | {"slots": SLOTS["slots"]}
    folder = allocator(tmp_path / "folder")
    write(folder, changes)
    write(folder / "slots-4kB", classes)
    said = run(way, "--interval", "0.1", "--sysfs", folder)
    assert "\x1b" not in said and "apples" not in said
    if way == "--once":
        assert said.startswith("cc_swiotlb is in an unknown state ")
        assert re.search(r"^shared +\? at most +\? peak +\? ", said, re.M)
        assert re.search(r"^converted +\? times +17 each +- failed +\? ", said, re.M)
        assert re.search(r"^4kB +\? +1,024 +\? +\? +\? +\? +\? +\? +\?$", said, re.M)
    if way == "--json":
        known = {"time_ms", "state", "refused_reason", "conversions", "classes"}
        assert json.loads(said).keys() == known
        assert json.loads(said)["classes"][2].keys() == {"class", "slot_bytes", "slots"}
    if way == "--prom":
        metrics = _metrics(said)
        assert {each for each in metrics if "class" not in each} == {
            "cc_swiotlb_conversions_total"
        }
        assert len(metrics["cc_swiotlb_class_free"]) == 9
    if way == "--advise":
        assert said.endswith("no advice.\n")


@pytest.mark.parametrize("name", [*HEALTHY, *(f"slots-2kB/{each}" for each in SLOTS)])
def test_each_file_may_be_missing(healthy, name):
    """No file is needed."""
    write(healthy, {name: None})
    for way in WAYS[:4]:
        assert run(way, "--sysfs", healthy)


@pytest.mark.parametrize("way", WAYS)
def test_off(tmp_path, way):
    """When it is off, there is only the state, and the tool says so."""
    write(tmp_path, {"state": "off"})
    said = run(way, "--interval", "0.1", "--sysfs", tmp_path)
    if way == "--prom":
        assert _metrics(said) == {"cc_swiotlb_enabled": ["cc_swiotlb_enabled 0"]}
    elif way == "--json":
        assert json.loads(said)["state"] == "off"
    else:
        assert "cc_swiotlb is off" in said and "?" not in said


@pytest.mark.parametrize("way", [*WAYS, "--log=/dev/null"])
def test_no_folder(tmp_path, way):
    """Without a folder it says so, and what to do."""
    done = subprocess.run(
        [tool(), way, "--sysfs", tmp_path / "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    said, silent = done.stderr, done.stdout
    if way == "--check":
        said, silent = silent, said
        assert said.startswith("CC_SWIOTLB UNKNOWN: ") and said.count("\n") == 1
    assert (done.returncode, silent) == (UNKNOWN, "")
    for words in ("/none: No such file", "CONFIG_CC_SWIOTLB=y", "--sysfs DIR"):
        assert words in said


# How it is called.


@pytest.mark.parametrize(
    "words",
    [
        "--once --json",
        "--log x --replay y",
        "--replay x --sysfs y",
        "--interval 0",
        "--interval nan",
        "--interval 1e9",
        "--nonsense",
        "word",
    ],
)
def test_wrong_usage(words):
    """Wrong usage is no state of the allocator: not the status of a warning."""
    done = subprocess.run(
        [tool(), *words.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == UNKNOWN
    assert "error: " in done.stderr and not done.stdout


def test_help():
    """--help names each option, --version the version."""
    said = run("--help")
    document = (stat_tool.vm.ROOT / "Documentation/cc_swiotlb_stat.rst").read_text()
    options = re.findall(r"^ +(?:-\w, )?(--\w+)", said, re.M)
    assert len(options) == 11
    for option in options:
        assert f"``{option}" in document, option
    assert run("--version").startswith("cc_swiotlb_stat ")


def test_reader_goes(healthy):
    """A reader that has seen enough is no error."""
    words = f"{tool()} --prom --sysfs {healthy}; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"{{ sleep 0.2; {words}; }} | true"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "0\n"


# In guests.


# 24 readers of 1 MiB, each of which is two mappings of 512 KiB, from idle. A request
# takes a second, so that all of them are in flight at the same time.
LOAD = """fio --name=n --filename=/dev/nvme0n1 --direct=1 --rw=read --bs=1M \\
	--size=64M --numjobs=24 --offset_increment=16M --ioengine=psync --thread \\
	--time_based --runtime=5 >/dev/null 2>&1"""


def _under_load(parameters: str) -> vm.Result:
    return vm.run(
        f"""
{vm.wait_ready()}
{LOAD}
cd /sys/kernel/mm/cc_swiotlb
# Until nothing has changed while it looked.
for i in $(seq 50); do
	grep . * >/tmp/before; /host/cc_swiotlb_stat --json >/tmp/json; grep . * >/tmp/after
	cmp -s /tmp/before /tmp/after && break
done
echo '=== json'; cat /tmp/json
echo '=== files'; cat /tmp/after
echo '=== advice'; /host/cc_swiotlb_stat --advise
echo '=== end'
""",
        *("--blk", "0", "--latency-ms", "1000", "--cpus", "2", "--add", tool()),
        *("--append", parameters),
        timeout=120,
    )


def _fell_back(found: dict) -> int:
    return found["refused"] + found["fallback_legacy"] + found["fallback_larger"]


@vm.once
def _too_little() -> vm.Result:
    return _under_load("cc_swiotlb.watermark=2M cc_swiotlb.max=4M")


def test_agrees_with_the_files():
    """In a guest, without any library, it says what the files say."""
    result = _too_little()
    said = json.loads(result.section("json"))
    files = dict(re.findall(r"^(\w+):(.+)$", result.section("files"), re.M))
    assert len(files) > 25
    for name, value in files.items():
        assert str(said.get(name)) == value, name


@pytest.mark.parametrize(
    "parameters,rounds",
    [("cc_swiotlb.watermark=2M", 1), ("cc_swiotlb.watermark=2M cc_swiotlb.max=4M", 3)],
    ids=["slow", "cap"],
)
def test_advice_is_enough(parameters, rounds):
    """The advice after a load that fell back is enough for it from then on.

    If the cap hid the need of the load, it is unknown: each round comes closer.
    """
    result = _under_load(parameters)
    assert _fell_back(json.loads(result.section("json"))) > 0
    for _ in range(rounds):
        advice = result.section("advice")
        found = re.search(r"^cc_swiotlb\.watermark=.*$", advice, re.M)
        assert found, advice
        result = _under_load(found[0])
        if _fell_back(json.loads(result.section("json"))) == 0:
            break
    assert _fell_back(json.loads(result.section("json"))) == 0, result.tail()
