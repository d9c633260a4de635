# SPDX-License-Identifier: GPL-2.0
"""The packages of `make deb`: what is in them, and that they serve a guest.

`make check-deb` runs these, `make check` does not: the kernel takes half an hour.
"""

import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import vm
from lib import deb, kernel, source

IO = str(vm.TESTING / "workload")
SYSFS = "/sys/kernel/mm/cc_swiotlb"
LOAD = "dd if=/dev/nvme0n1 of=/dev/null iflag=direct bs=4k count=500 2>/dev/null"
# It makes the allocator grow: more than the watermark at a time.
GROW = "echo 192M >/sys/module/cc_swiotlb/parameters/watermark"
DOCUMENT = vm.ROOT / "Documentation" / "deb.rst"
ADMIN = vm.ROOT / "Documentation" / "admin.rst"


@vm.once
def _packages(test: bool) -> list[Path]:
    return deb.build(test)


def _dpkg(*words: str) -> str:
    done = subprocess.run(
        ["dpkg-deb", *words], capture_output=True, text=True, check=True
    )
    return done.stdout


@vm.once
def _contents(test: bool) -> list[str]:
    """The names of the files in the package that has the kernel."""
    listed = _dpkg("--contents", str(deb.image_of(_packages(test))))
    return [line.split()[5].removeprefix("./") for line in listed.splitlines()]


@vm.once
def _file(test: bool, pattern: str) -> str:
    """A file in it, by its name."""
    (name,) = [name for name in _contents(test) if re.fullmatch(pattern, name)]
    package = str(deb.image_of(_packages(test)))
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as archive:
        done = subprocess.run(
            ["tar", "--extract", "--to-stdout", f"./{name}"],
            stdin=archive.stdout,
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout


@vm.once
def _settings(test: bool, folder: Path) -> dict[str, str]:
    config = folder / f"config-{test}"
    config.write_text(_file(test, r"boot/config-.*"), encoding="utf-8")
    return kernel.settings_of([config])


@pytest.fixture(scope="session", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deb")


def test_packages():
    """The kernel, and the headers to build other modules with; all of one version."""
    found = {}
    for package in _packages(False):
        fields = _dpkg("--field", str(package), "Package", "Version")
        name, version = re.findall(r": (.+)", fields)
        found[name] = version
    names = " ".join(sorted(found))
    assert re.fullmatch(
        r"linux-headers-(\S+)-cc-swiotlb linux-image-\1-cc-swiotlb linux-libc-dev",
        names,
    ), names
    assert len(set(found.values())) == 1, found


def test_modules_are_signed():
    """Modules are signed with a key that nobody has any more."""
    for package in _packages(False):
        assert Path(deb.KEY).name not in _dpkg("--contents", str(package))
    assert not (_packages(False)[0].parents[1] / "kernel" / deb.KEY).exists()
    # Unsigned ones would taint the kernel, which says so in its log.
    assert "module verification failed" not in _run().console


def test_users_get_no_emulation(folder):
    """The packages for users are not those for tests."""
    for test in (False, True):
        settings = _settings(test, folder)
        assert settings["CONFIG_CC_SWIOTLB"] == "y"
        assert ("CONFIG_CC_EMUL" in settings) == test
    maps = [_file(test, r"boot/System.map-.*") for test in (False, True)]
    assert [" cc_emul_shared_bit" in each for each in maps] == [False, True]
    assert all(" __cc_swiotlb_map" in each for each in maps)


def _differences(folder: Path) -> set[str]:
    """The settings in which the two configurations differ."""
    users, tests = (_settings(test, folder) for test in (False, True))
    return {
        name for name in users | tests if users.get(name, "n") != tests.get(name, "n")
    }


def test_tests_are_of_the_same_kernel(folder):
    """Except for the emulation, users get the kernel that is tested."""
    assert _differences(folder) == {"CONFIG_CC_EMUL", "CONFIG_LOCALVERSION"}


def _there() -> set[str]:
    """The names of all modules and of what is built in."""
    names = re.findall(r"/([^/]+)\.ko(?:\.xz)?$", "\n".join(_contents(False)), re.M)
    built_in = _file(False, r".*/modules\.builtin")
    names += re.findall(r"/([^/]+)\.ko$", built_in, re.M)
    return {name.replace("-", "_") for name in names}


def test_modules():
    """All that is asked for is there, and hardly anything else."""
    there = _there()
    missing = [name for name in deb.modules() if name not in there]
    assert not missing, missing
    count = sum(".ko" in name for name in _contents(False))
    assert len(deb.modules()) <= count < 2 * len(deb.modules()), count


def test_documented():
    """The modules that the page names are in it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition("What is in it")[2].partition("What is not")[0]
    named = set(re.findall(r"``([a-z0-9_]+)``", table))
    assert len(named) > 30
    assert named <= _there(), named - _there()


def test_configuration_is_debians(folder):
    """Most of what Debian builds in is built in."""
    debian = folder / "debian"
    debian.write_bytes(deb.debian_config(source.pristine()))
    theirs, ours = kernel.settings_of([debian]), _settings(False, folder)
    same = [name for name in theirs if theirs[name] == "y" == ours.get(name)]
    built_in = [name for name in theirs if theirs[name] == "y"]
    assert len(same) > 0.85 * len(built_in), len(same) / len(built_in)
    # Settings that decide how safe and how fast it is.
    for name in ("EXPERT", "SMP", "NUMA", "PREEMPT_LAZY", "RANDOMIZE_BASE", "RUST"):
        assert ours[f"CONFIG_{name}"] == theirs[f"CONFIG_{name}"], name
    for name in ("INTEL_TDX_GUEST", "AMD_MEM_ENCRYPT", "SECURITY_APPARMOR", "BPF_JIT"):
        assert ours[f"CONFIG_{name}"] == "y" == theirs[f"CONFIG_{name}"], name


def _tracing() -> list[str]:
    """The three recipes of the section on tracing in the guide, as they stand there."""
    text = ADMIN.read_text(encoding="utf-8").partition("\nTracing\n=======\n")[2]
    hist, events, program = (
        textwrap.dedent("".join(block))
        for block in re.findall(r"::\n\n((?:\t.*\n)+)", text)
    )
    # The command that shows something stands between the load and the end of it.
    begin, cat, end = hist.strip().rsplit("\n", 2)
    return [
        f"({begin}\n{LOAD}\n{cat}\n{end})",
        f"(cd /sys/kernel/tracing\n{events.replace('cat', 'timeout 3 cat')})"
        f" >/tmp/pipe & sleep 1; {GROW}\n"
        "wait; cat /tmp/pipe",
        f"{program.strip().replace('bpftrace', 'timeout -s INT 15 bpftrace', 1)} &\n"
        f"sleep 10; {LOAD}; wait",
    ]


@vm.once
def _run() -> vm.Result:
    """Disk I/O in the Debian system that the package was installed into."""
    modules = " ".join(deb.modules())
    hist, events, program = _tracing()
    return vm.run(
        f"""
echo '=== system'
cat /etc/os-release /proc/version; dpkg-query --show 'linux-image-*'
grep ' / ' /proc/mounts; ls /boot
echo '=== before'; (cd {SYSFS} && grep . *)
busybox sh /host/workload/disk nvme0n1 none 32M; echo "nvme: $?"
for each in xfs ext4 btrfs; do modprobe $each; done
mkfs.xfs -q -f /dev/nvme0n1 && mkdir -p /mnt/x && mount /dev/nvme0n1 /mnt/x &&
	cp -r /usr/bin /mnt/x && umount /mnt/x && mount -o ro /dev/nvme0n1 /mnt/x &&
	(cd /usr/bin && find . -type f -exec sha256sum {{}} +) >/tmp/sums &&
	(cd /mnt/x/bin && sha256sum -c -s /tmp/sums) && umount /mnt/x
echo "xfs: $?"; wc -l </tmp/sums
for disk in /dev/vd?; do
	[ "$(blkid -s LABEL -o value $disk)" = {deb.LABEL} ] || spare=${{disk#/dev/}}
done
busybox sh /host/workload/disk $spare none 32M; echo "virtio: $?"
echo '=== after'; (cd {SYSFS} && grep . *)
echo '=== modules'
for each in {modules}; do
	modprobe $each 2>/tmp/said || sed "s/^/$each: /" /tmp/said
done
lsmod
echo '=== hist'; {hist}
echo '=== events'; {events}
echo '=== bpftrace'; {program}
echo '=== end'
""",
        # Much is written at once: the test is not about a shortage for a moment.
        *("--deb", "--mem", "2G", "--add", IO),
        *("--append", "cc_swiotlb.watermark=128M"),
        timeout=900,
    )


def _files(section: str) -> dict[str, str]:
    found = dict(re.findall(r"^(\w+):(.*)$", _run().section(section), re.M))
    assert len(found) > 25, f"nothing in {section}\n{_run().tail()}"
    return found


def test_installed():
    """The guest is the Debian system, which has the package and its initramfs."""
    system = _run().section("system")
    assert "ID=debian" in system, system
    (release,) = re.findall(r"^Linux version (\S+-cc-swiotlb-test) ", system, re.M)
    assert re.search(rf"^linux-image-{re.escape(release)}\t", system, re.M), system
    assert f"initrd.img-{release}" in system and f"vmlinuz-{release}" in system
    assert re.search(r"^/dev/vd. / ext4 rw", system, re.M), system
    assert re.search(r"Loading, please wait|Begin: ", _run().console), "no initramfs"


def test_io():
    """Every byte comes back, by fio's checksums and in files."""
    result = _run()
    for name in ("nvme", "xfs", "virtio"):
        assert f"\n{name}: 0\n" in result.stdout, result.tail()
    assert int(re.search(r"^xfs: 0\n(\d+)$", result.stdout, re.M)[1]) > 200


def test_served():
    """It was cc_swiotlb that served the I/O: nothing failed or was left to swiotlb."""
    before, after = _files("before"), _files("after")
    assert before["state"] == after["state"] == "on"
    assert int(after["mapped"]) - int(before["mapped"]) > 3000
    for name in ("refused", "misuse", "leaked_bytes", "conversion_failures"):
        assert after[name] == "0", name
    assert after["fallback_legacy"] == before["fallback_legacy"]


# Messages of modules whose device is not in the machine.
ABSENT = r"No such device|Operation not supported"


def test_modules_load():
    """All modules can be loaded, as far as there is a device for them."""
    said = _run().section("modules")
    failed = vm.lines(said, r"ERROR|FATAL")
    bad = [line for line in failed if not re.search(ABSENT, line)]
    assert not bad, bad
    loaded = set(re.findall(r"^(\w+) +\d+ +\d+", said, re.M))
    assert len(loaded) > 100, sorted(loaded)


def test_recipe_hist_triggers():
    """The recipe for mappings by device and size counts a known load to the unit."""
    found = re.findall(
        r"dev_name: (\S+) *, size: ~ 2\^(\d+) *\} hitcount: +(\d+)",
        _run().section("hist"),
    )
    assert ("12", "500") in [(size, count) for _, size, count in found], found


def test_recipe_events():
    """The recipe for growth shows each conversion."""
    assert "cc_swiotlb_refill: " in _run().section("events")


def test_recipe_bpftrace():
    """The recipe for how long mappings live shows all of them."""
    said = _run().section("bpftrace")
    (table,) = re.findall(r"^@us:\s*\n((?:[\[(].*\n?)+)", said, re.M)
    assert sum(int(n) for n in re.findall(r"[])] +(\d+) +\|", table)) >= 500, said
