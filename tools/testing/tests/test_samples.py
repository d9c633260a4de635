# SPDX-License-Identifier: GPL-2.0
"""The samples: built, run in the guest, and seen to do what they say."""

import re

import pytest
import vm

DRIVER = "cc_swiotlb_platform_driver"
BYTES = 64 * 4096


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The sample driver, built for the guest's kernel."""
    output = tmp_path_factory.mktemp("driver")
    return vm.build_module("platform_driver", output, parent=vm.ROOT / "samples")


def test_platform_driver(driver):
    """Its mappings are bounced while it is bound, and no longer."""
    result = vm.run(
        f"""
{vm.wait_ready()}
mapped() {{ cd /sys/kernel/mm/cc_swiotlb; echo "$1: $(cat mapped) $(cat unmapped)"; }}
insmod /host/{driver.name} || exit
name=$(cd /sys/bus/platform/devices; for n in *; do [ -e $n/driver ] || echo $n; done |
	head -1)
echo "device: $name"
mapped before
echo {DRIVER} >/sys/bus/platform/devices/$name/driver_override
cd /sys/bus/platform/drivers/{DRIVER}
echo $name >bind
mapped bound
cd /sys/bus/platform/drivers/{DRIVER}
echo $name >unbind
mapped unbound
rmmod {DRIVER}
{vm.log()}
""",
        *("--nvme", "0", "--blk", "0", "--add", str(driver)),
        *("--append", vm.LOG_SPACE),
        timeout=60,
    )
    counts = {
        name: (int(mapped), int(unmapped))
        for name, mapped, unmapped in re.findall(r"(\w+): (\d+) (\d+)", result.stdout)
    }
    seen = re.findall(r"the device sees (\d+) bytes at 0x", result.section("log"))
    assert sum(map(int, seen)) == BYTES, result.tail()
    before, bound, unbound = (counts[name] for name in ("before", "bound", "unbound"))
    assert bound == (before[0] + len(seen), before[1])
    assert unbound == (before[0] + len(seen), before[1] + len(seen))
