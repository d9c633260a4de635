# SPDX-License-Identifier: GPL-2.0
"""What the host can see: the payload of I/O, and nothing else.

The host's view of the guest's memory is a file, which is searched after the
guest has ended. Words are put together in the guest, from halves, so that the
command itself, which is not a secret here, does not hold them.
"""

import mmap
import re
import secrets
from pathlib import Path

import pytest
import vm

PAYLOAD = "PAYLOAD-" + secrets.token_hex(12)
FILE_SECRET = "FILESECRET-" + secrets.token_hex(12)
MEMORY_SECRET = "MEMSECRET-" + secrets.token_hex(12)
CMDLINE_SECRET = "CMDSECRET-" + secrets.token_hex(12)

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

# The payload: what is meant for the disk, past the page cache.
for n in $(seq 1024); do printf '%-64s' "$payload"; done >/tmp/payload
dd if=/tmp/payload of=/dev/nvme0n1 bs=64k oflag=direct 2>/dev/null
dd if=/tmp/payload of=/dev/vda bs=4k oflag=direct 2>/dev/null
dd if=/dev/nvme0n1 of=/dev/null bs=128k count=64 iflag=direct 2>/dev/null
sync
cp /proc/cmdline /dev/shm/cmdline
cat /proc/version
{vm.counters()}
"""


@pytest.fixture(scope="module", params=["cc", "legacy"])
def seen(request, tmp_path_factory):
    """How often the host sees each word, with what the guest said."""
    path = tmp_path_factory.mktemp("shared") / "memory"
    result = vm.run(
        _command(),
        *("--swiotlb", request.param, "--shared-file", str(path), "--mem", "512M"),
        *("--convert-us", str(CONVERT_US), "--append", f"secret={CMDLINE_SECRET}"),
        timeout=120,
    )
    yield result, path
    path.unlink()


def _count(path: Path, word: str) -> int:
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory,
    ):
        return len(re.findall(re.escape(word.encode()), memory))


def test_payload_is_seen(seen):
    """The positive control: the file is what the devices saw."""
    assert _count(seen[1], PAYLOAD) > 100


@pytest.mark.parametrize(
    "word",
    [FILE_SECRET, MEMORY_SECRET, CMDLINE_SECRET, "Linux version", "cc_emul="],
    ids=["file", "process", "command line", "kernel", "parameter"],
)
def test_private_is_not_seen(seen, word):
    """What is nobody's payload stays private."""
    result, path = seen
    assert _count(path, word) == 0, result.tail()


def test_conversion_costs(seen):
    """The guest did pay for its conversions, and came up all the same."""
    result, _ = seen
    if result.stats()["state"] == "on":
        assert result.count("conversions") > 0
        assert result.count("legacy") == 0
        assert result.count("exhausted") == 0
