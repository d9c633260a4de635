# SPDX-License-Identifier: GPL-2.0
"""What a device finds in a buffer that it is meant to fill.

With cc_swiotlb.from_device=preserve it finds the old content of the memory, as it
always has with swiotlb; with zero it finds nothing. A device of the untrusted host
looks into each buffer that it is handed, so that nothing is missed.

The words are put together in the guest, from halves, as in test_leak.
"""

import json
import re
import secrets

import pytest
import vm

# Kinds of memory that a guest frees, and hands out again as buffers for reads.
FREED = {
    name: f"{name.upper()}-{secrets.token_hex(12)}"
    for name in ("cache", "heap", "arguments", "slab")
}
MEMORY = "512M"
# More than the guest has, so that all free memory is used.
READ_MIB = 600


def _joined(word: str) -> str:
    """A shell word that becomes `word` only when the guest evaluates it."""
    return f'"{word[:12]}""{word[12:]}"'


# Each kind gets a word: pages of a file, of a process, of the arguments on its stack,
# and of the kernel's slab, where short targets of symbolic links are.
SEEDS = """
many() {
	many=$1
	for n in $(seq 10); do many=$many$many; done
	echo "$many"
}
seed_cache() {
	line=$(many "$1")
	for n in $(seq 1000); do echo "$line"; done >/tmp/file
	rm /tmp/file
}
seed_heap() { sh -c 'm=$0; for n in $(seq 16); do m=$m$m; done' "$1"; }
seed_arguments() { line=$(many "$1"); sh -c true "$line" "$line" "$line"; }
seed_slab() {
	mkdir -p /tmp/links/0
	for n in $(seq 300); do ln -s "$1$1" "/tmp/links/0/$n"; done
	for n in $(seq 50); do cp -a /tmp/links/0 "/tmp/links/$n"; done
	rm -r /tmp/links
}
"""


@vm.once
def _seen(from_device: str) -> dict[str, int]:
    """How often the device has seen each word."""
    seeds = {name: f"seed_{name} {_joined(word)}" for name, word in FREED.items()}
    result = vm.run(
        f"""
{vm.wait_ready()}
{SEEDS}
{seeds["cache"]}
for n in $(seq 16); do
	{seeds["heap"]}
	{seeds["arguments"]}
done
{seeds["slab"]}
sleep 2
dd if=/dev/vda of=/dev/null bs=1M count={READ_MIB} 2>/dev/null; echo "read: $?"
{vm.counters()}
""",
        *("--mem", MEMORY, "--nvme", "0", "--blk", "0", "--vhost-blk", "1"),
        *(
            "--vhost-seek",
            ",".join(FREED.values()),
            "--append",
            f"cc_swiotlb.from_device={from_device}",
        ),
        timeout=240,
    )
    assert "read: 0" in result.stdout, result.tail()
    (line,) = re.findall(r"^ccvm: vhost-blk 0: (\{.*\})$", result.stderr, re.M)
    report = json.loads(line)
    assert report["read_bytes"] >= READ_MIB << 20
    assert report["outside"] == 0
    return report["seen"]


@pytest.mark.parametrize("place", FREED)
def test_preserve_shows_what_was_there(place, capsys):
    """The positive control, with a figure: freed data is seen in new buffers."""
    word = FREED[place]
    seen = _seen("preserve")[word]
    with capsys.disabled():
        print(f"\n{place}: {seen * len(word)} bytes seen", end=" ")
    assert seen > 0


@pytest.mark.parametrize("place", FREED)
def test_zero_shows_nothing(place):
    """With from_device=zero the host sees none of it."""
    assert _seen("zero")[FREED[place]] == 0
