# SPDX-License-Identifier: GPL-2.0
"""The configurations that adopters use: each builds, boots, and bounces rightly.

`make check-configs` runs these, `make check` does not: each needs a kernel of its own.
"""

import hashlib
import json
import re
from pathlib import Path

import dma
import ktap
import pytest
import vm
from lib import kernel, toolchain
from stat_tool import tool

CONFIGS = [name for name in kernel.CONFIGS if not name.endswith("-again")]
SYSFS = "/sys/kernel/mm/cc_swiotlb"
RUN = "/sys/module/cc_swiotlb_dma_test/parameters/run"
LOCKDOWN = "/sys/kernel/security/lockdown"
# The one without debugfs and modules, which is booted under lockdown.
SMALL = "small"

# The settings that each one is there for, as in its .config.
SETTINGS = {
    "gcc": {
        "CONFIG_CC_IS_GCC": "y",
        "CONFIG_EXPERT": "n",
        "CONFIG_RUST_INLINE_HELPERS": "n",
        "CONFIG_DEBUG_INFO_BTF": "y",
    },
    "small": {
        "CONFIG_DEBUG_FS": "n",
        "CONFIG_FTRACE": "n",
        "CONFIG_TRACING": "n",
        "CONFIG_MODULES": "n",
        "CONFIG_CC_SWIOTLB_VIRTIO_BLK": "n",
    },
    "one-node": {"CONFIG_NUMA": "n", "CONFIG_INIT_ON_FREE_DEFAULT_ON": "y"},
    "one-cpu": {"CONFIG_SMP": "n", "CONFIG_CC_SWIOTLB_VIRTIO": "n"},
}
ALL = {"CONFIG_WERROR": "y", "CONFIG_CC_SWIOTLB": "y", "CONFIG_CC_EMUL": "y"}

# Cases that need something that a guest of this kind cannot have.
SKIPPED = {
    "dma_mask": CONFIGS,
    "other_cpu": ["one-cpu"],
}

# How many blocks of a page are written and read: each is one mapping.
BLOCKS = 256
PAGE = 4096


def _counters(name: str) -> str:
    """Prints sysfs, which is there in every configuration, as a section."""
    return (
        f"echo '=== {name}'; (cd {SYSFS} && grep -r . . | sed 's/^..//; s/:/: /');"
        " echo '=== end'"
    )


def _files(result: vm.Result, section: str) -> dict[str, str]:
    found = dict(re.findall(r"^(\S+): (.*)$", result.section(section), re.M))
    assert len(found) > 100, f"nothing in {section}\n{result.tail()}"
    return found


@vm.once
def _built(flavour: str) -> kernel.Kernel:
    return kernel.build(flavour)


@vm.once
def _module(flavour: str, folder: Path) -> Path:
    _built(flavour)
    return vm.build_module("dma_test", folder / flavour, flavour)


@pytest.fixture(scope="session", name="modules")
def _modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where modules are built."""
    return tmp_path_factory.mktemp("modules")


@vm.once
def _run(flavour: str, modules: Path) -> vm.Result:
    """A load of known size, and the DMA test, in a guest of this configuration."""
    _built(flavour)
    append = vm.LOG_SPACE
    if flavour == SMALL:
        test = f"echo 1 >{RUN}"
        added = []
        append += " lockdown=confidentiality"
    else:
        module = _module(flavour, modules)
        test = f"insmod /host/{module.name}"
        added = ["--add", str(module)]
    ready = f"[ $(cat {SYSFS}/shared_bytes) -gt 0 ] && break; sleep 0.1"
    job = f"--filename=/dev/nvme0n1 --direct=1 --rw=write --bs={PAGE} --verify=crc32c"
    result = vm.run(
        f"""
for i in $(seq 100); do {ready}; done; sleep 0.5
echo '=== version'; cat /proc/version
echo '=== lockdown'; mount -t securityfs none /sys/kernel/security && cat {LOCKDOWN}
echo '=== elsewhere'; ls /sys/kernel/debug /sys/kernel/tracing/events
{_counters("before load")}
fio --name=load {job} --size={BLOCKS * PAGE} >/tmp/fio && grep 'err= 0' /tmp/fio
{_counters("after load")}
echo '=== json'; /host/cc_swiotlb_stat --json
echo '=== test'; {test}; echo "test: $?"
{_counters("after test")}
{vm.log()}
""",
        *("--flavour", flavour, "--append", append, "--add", tool(), *added),
        timeout=900,
        status=None,
    )
    assert result.status == 0, f"configuration {flavour}: {result.tail()}"
    return result


@vm.once
def _cases(flavour: str, modules: Path) -> dict[str, ktap.Test]:
    log = _run(flavour, modules).section("log")
    return {test.name: test for test in ktap.parse(log)}


@pytest.mark.parametrize("flavour", kernel.CONFIGS)
def test_builds_without_a_warning(flavour):
    """No file at all causes a warning."""
    built = _built(flavour)
    assert built.image.is_file()
    log = (built.folder / kernel.LOG).read_text(encoding="utf-8", errors="replace")
    assert not kernel.warnings_of(log), f"configuration {flavour}"


@pytest.mark.parametrize("flavour", CONFIGS)
def test_is_what_it_is_called(flavour):
    """Its .config has the settings that its name stands for."""
    found = kernel.settings_of([_built(flavour).folder / ".config"])
    for name, value in (SETTINGS[flavour] | ALL).items():
        assert found.get(name, "n") == value, f"configuration {flavour}: {name}"


@pytest.mark.parametrize("case", dma.CASES)
@pytest.mark.parametrize("flavour", CONFIGS)
def test_dma(flavour, case, modules):
    """One case of the DMA test."""
    test = _cases(flavour, modules).get(case)
    assert test, f"configuration {flavour}: {case} did not end"
    assert test.passed, f"configuration {flavour}: " + "\n".join(test.said[-20:])
    allowed = flavour in SKIPPED.get(case, ())
    assert allowed or not test.skipped, f"configuration {flavour}: {test.skipped}"


@pytest.mark.parametrize("flavour", CONFIGS)
def test_serves(flavour, modules):
    """It was cc_swiotlb that served the test, and it has everything back."""
    result = _run(flavour, modules)
    said = result.section("test")
    assert "test: 0" in said, f"configuration {flavour}: {said}{result.stderr[-2000:]}"
    files = _files(result, "after test")
    assert files["state"] == "on", f"configuration {flavour}"
    assert int(files["mapped"]) > 50000, f"configuration {flavour}"
    assert int(files["misuse"]) == 0, f"configuration {flavour}"
    assert int(files["leaked_bytes"]) == 0, f"configuration {flavour}"
    left = int(files["mapped"]) - int(files["unmapped"])
    assert left < 64, f"configuration {flavour}: {left} mappings are left"


@pytest.mark.parametrize("flavour", CONFIGS)
def test_known_load(flavour, modules):
    """A load of known size comes back as it went out, and is counted to the unit."""
    result = _run(flavour, modules)
    assert "err= 0" in result.stdout, f"configuration {flavour}: {result.tail()}"
    before, after = _files(result, "before load"), _files(result, "after load")

    def growth(name: str) -> int:
        return int(after[name]) - int(before[name])

    # Written, and read back.
    for name in ("mapped", "unmapped", "slots-4kB/mapped", "slots-4kB/unmapped"):
        assert growth(name) == 2 * BLOCKS, f"configuration {flavour}: {name}"
    assert growth("mapped_bytes") == 2 * BLOCKS * PAGE, f"configuration {flavour}"
    assert growth("refused") == 0, f"configuration {flavour}"


@pytest.mark.parametrize("flavour", CONFIGS)
def test_stat_agrees(flavour, modules):
    """cc_swiotlb_stat says what the files say."""
    result = _run(flavour, modules)
    said = json.loads(result.section("json"))
    files = _files(result, "after load")
    names = [name for name in files if "/" not in name]
    assert len(names) > 25, f"configuration {flavour}"
    for name in names:
        assert str(said[name]) == files[name], f"configuration {flavour}: {name}"


def test_small_shows_nothing_else(modules):
    """Nothing but sysfs is there, under the strictest lockdown."""
    result = _run(SMALL, modules)
    assert "[confidentiality]" in result.section("lockdown"), result.stderr[-2000:]
    elsewhere = result.section("elsewhere")
    assert "cc_swiotlb" not in elsewhere, elsewhere
    # The others do show something.
    assert "cc_swiotlb" in _run("one-node", modules).section("elsewhere")


def test_gcc_is_gcc(modules):
    """The kernel names the compiler that built it."""
    version = toolchain.version("gcc-14") or toolchain.version("gcc")
    machine = _run("gcc", modules).section("version")
    assert "gcc (Debian" in machine and version.split("-")[0] in machine, machine
    assert "clang" in _run("one-node", modules).section("version")


def _digests(flavour: str, modules: Path) -> dict[str, str]:
    """The files that can be booted or loaded, by name."""
    folder = _built(flavour).folder
    module = _module(flavour, modules)
    found = [folder / "vmlinux", _built(flavour).image, *sorted(folder.rglob("*.ko"))]
    names = {path: str(path.relative_to(folder)) for path in found}
    names[module] = module.name
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in names.items()
    }


def test_reproducible(modules):
    """The same sources, built in two folders, make the same bits."""
    once, again = (_digests(each, modules) for each in ("one-cpu", "one-cpu-again"))
    assert len([name for name in once if name.endswith(".ko")]) >= 2, list(once)
    other = [name for name in once | again if once.get(name) != again.get(name)]
    assert not other, f"configuration one-cpu: these differ: {', '.join(other)}"
