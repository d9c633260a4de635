# SPDX-License-Identifier: GPL-2.0
"""What the host can see: the payload of I/O, and nothing else.

Words are put together in the guest, from halves, so that the command itself,
which is not a secret here, does not hold them.
"""

import secrets

import pytest
import vm
from host import Watcher

PAYLOAD = "PAYLOAD-" + secrets.token_hex(12)
FILE_SECRET = "FILESECRET-" + secrets.token_hex(12)
MEMORY_SECRET = "MEMSECRET-" + secrets.token_hex(12)
CMDLINE_SECRET = "CMDSECRET-" + secrets.token_hex(12)
KERNEL = "Linux version"
PARAMETER = "cc_emul="
PRIVATE = [FILE_SECRET, MEMORY_SECRET, CMDLINE_SECRET, KERNEL, PARAMETER]

CONVERT_US = 23


def _joined(word: str) -> str:
    """A shell word that becomes `word` only when the guest evaluates it."""
    return f'"{word[:12]}""{word[12:]}"'


def _command() -> str:
    return f"""
{vm.wait_ready()}
payload={_joined(PAYLOAD)}
file={_joined(FILE_SECRET)}
memory={_joined(MEMORY_SECRET)}

# A file that stays in memory, and a process that holds words in its own.
for n in $(seq 2000); do echo "$file"; done >/dev/shm/secret
sh -c 'words=; for n in $(seq 500); do words="$words $0"; done; sleep 30' "$memory" &
cp /proc/cmdline /dev/shm/cmdline
cp /proc/version /dev/shm/version

# Reads, for which the guest's own bytes go out first; then the payload, which is
# what the disk is meant to get. After each the host has time to look.
for round in 1 2 3; do
	dd if=/dev/nvme0n1 of=/dev/null bs=128k count=64 iflag=direct 2>/dev/null
	dd if=/dev/vda of=/dev/null bs=5k count=64 2>/dev/null
	sleep 0.7
	for n in $(seq 1024); do printf '%-64s' "$payload"; done >/tmp/payload
	dd if=/tmp/payload of=/dev/nvme0n1 bs=64k oflag=direct 2>/dev/null
	dd if=/tmp/payload of=/dev/vda bs=4k oflag=direct 2>/dev/null
	sleep 0.7
done
{vm.counters()}
"""


@pytest.fixture(scope="module", params=["cc", "legacy"])
def seen(request, tmp_path_factory):
    """A watcher that has seen all of it, and the output of the guest."""
    path = tmp_path_factory.mktemp("shared") / "memory"
    with Watcher(path, [PAYLOAD, *PRIVATE]) as watcher:
        result = vm.run(
            _command(),
            *("--swiotlb", request.param, "--shared-file", str(path), "--mem", "512M"),
            *("--convert-us", str(CONVERT_US), "--append", f"secret={CMDLINE_SECRET}"),
            timeout=120,
        )
    yield watcher, result
    path.unlink()


def test_payload_is_seen(seen):
    """The positive control: the watcher looks at the memory that the devices see."""
    watcher, _ = seen
    assert watcher.passes > 10
    assert watcher.seen[PAYLOAD] >= 1024


@pytest.mark.parametrize(
    "word",
    PRIVATE,
    ids=["file", "process", "command line", "kernel", "parameter"],
)
def test_private_is_not_seen(seen, word):
    """Data that is nobody's payload stays private."""
    watcher, result = seen
    assert watcher.seen[word] == 0, result.tail()


def test_conversion_costs(seen):
    """The guest did pay for its conversions, and came up all the same."""
    _, result = seen
    if result.stats()["state"] == "on":
        assert result.count("conversions") > 0
        assert result.count("fallback_legacy") == 0
        assert result.count("refused") == 0
