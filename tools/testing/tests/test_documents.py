# SPDX-License-Identifier: GPL-2.0
"""Things named in the documents exist: parameters, files, events, messages, options."""

import re
import subprocess

import pytest
import vm

PAGES = [
    vm.ROOT / "README.md",
    *sorted((vm.ROOT / "Documentation").glob("*.rst")),
    *sorted(path for path in (vm.ROOT / "samples").rglob("*") if path.is_file()),
]
ADMIN = vm.ROOT / "Documentation/admin.rst"
ABI = vm.ROOT / "Documentation/ABI/testing/sysfs-kernel-mm-cc_swiotlb"


def _text(*patterns: str) -> str:
    paths = [path for pattern in patterns for path in sorted(vm.ROOT.glob(pattern))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _sources() -> str:
    # Join texts that continue in the next line of a source.
    return re.sub(r"\\\n\s*", "", _text("**/*.rs", "glue/*.c"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parameters_exist(page):
    """Each parameter that a page names exists."""
    glue = _text("glue/*.c")
    there = set(re.findall(r"module_param_(?:cb|named)\((\w+),", glue))
    there |= set(re.findall(r'"cc_swiotlb\.(\w+)"', glue))
    assert len(there) >= 5
    named = set(re.findall(r"\bcc_swiotlb\.(\w+)=", page.read_text(encoding="utf-8")))
    assert named <= there


def test_parameters_are_documented():
    """Each parameter is in README and in the kernel's list of parameters."""
    listed = _text("patches/7.3/*Documentation*.patch")
    for name in re.findall(r"module_param_cb\((\w+),", _text("glue/params.c")):
        assert f"`cc_swiotlb.{name}=`" in _text("README.md")
        assert f"+\tcc_swiotlb.{name}=" in listed


def test_messages_exist():
    """Each message of the admin guide is one that the code can print."""
    said = re.findall(r"``cc_swiotlb: (.*?)``", ADMIN.read_text(encoding="utf-8"))
    said += re.findall(r", ``([a-z ]+\.\.\.)``", ADMIN.read_text(encoding="utf-8"))
    assert len(said) >= 7
    for message in said:
        # Placeholders: capitals, dots, the reason.
        fixed = re.split(r"\b[A-Z]+\b| at |\.\.\.|\(|: why; what helps|=", message)
        for part in filter(None, (part.strip(" ;)") for part in fixed)):
            assert part in _sources(), message


def test_reasons_exist():
    """Each reason of a refusal is documented, in both places."""
    words = re.search(r"REASONS: \[&str; \d\] = \[(.*?)\]", _sources(), re.S)[1]
    reasons = re.findall(r'"(\w+)"', words)
    assert len(reasons) == 6
    abi, admin = ABI.read_text(encoding="utf-8"), ADMIN.read_text(encoding="utf-8")
    for reason in reasons:
        assert re.search(rf"^\t\t{reason} +\S", abi, re.M), reason
        assert reason == "none" or re.search(rf"^\t{reason} +\S", admin, re.M), reason


def test_events_exist():
    """Each trace event that a page names exists."""
    there = set(re.findall(r"TRACE_EVENT\((\w+)", _text("trace/*.h")))
    there |= {"swiotlb_bounced", "swiotlb_unbounced"}
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"\b(?:cc_)?swiotlb_(?:bounced|unbounced|refill)\b", pages))
    named |= set(re.findall(r"``(cc_swiotlb_(?!stat)\w+)``", ADMIN.read_text("utf-8")))
    assert len(named) >= 5 and named <= there


@pytest.mark.parametrize("objects", ["sev-snp-guest", "memory-backend-memfd"])
def test_qemu_has_the_options(objects):
    """The options of the documented commands are those of QEMU."""
    shown = subprocess.run(
        ["qemu-system-x86_64", "-object", f"{objects},help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text = _text("Documentation/platforms.rst")
    wanted = re.search(rf"-object {objects},(\S+)", text)[1]
    # These belong to the object, not to its class, and help does not show them.
    of_object = {"id", "cbitpos", "reduced-phys-bits"}
    for option in {item.split("=")[0] for item in wanted.split(",")} - of_object:
        assert re.search(rf"^ +{option}=", shown, re.M), option


def test_each_message_is_explained():
    """Each message of the kernel log is in admin.rst, except for parts that vary."""
    sources = [vm.ROOT / "cc_swiotlb.rs", *vm.ROOT.glob("[gkp]*/*.rs")]
    calls = r'(?:pr|dev)_(?:err|warn|info)!\(\s*(?:dev\.device\(\),\s*)?"([^"]+)"'
    messages = [
        message
        for source in sources
        for message in re.findall(calls, source.read_text(encoding="utf-8"))
    ]
    assert len(messages) >= 9
    admin = " ".join(ADMIN.read_text(encoding="utf-8").split())
    for message in messages:
        fixed = re.split(r"\{[^}]*\}|\\n|\\\s+", message.removeprefix("cc_swiotlb: "))
        longest = max(fixed, key=len).strip(" (),:;")
        assert longest in admin, message
