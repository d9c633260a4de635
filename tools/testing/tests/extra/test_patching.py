# SPDX-License-Identifier: GPL-2.0
"""Guests outlive QEMU's race between patching and translating code.

`make check-races` runs this, `make check` does not: it takes six minutes, in which the
race is met in two of three attempts (emul_int3.c in tools/testing/patches has more).
"""

from concurrent.futures import ThreadPoolExecutor

import vm

GUESTS = 3
SECONDS = 300
# Each change patches whatever reads the time, which all CPUs do all the time.
COMMAND = f"""
cd /sys/devices/system/clocksource/clocksource0
for cpu in 1 2 3 4; do
	while :; do date >/dev/null; done &
done
end=$(($(date +%s) + {SECONDS}))
changes=0
while [ $(date +%s) -lt $end ]; do
	for name in hpet tsc; do
		echo $name >current_clocksource
		read now <current_clocksource
		[ $now != $name ] || changes=$((changes + 1))
	done
done
echo "changes: $changes"
dmesg | grep 'kept a breakpoint'
true
"""


def _guest(_: int) -> vm.Result:
    return vm.run(
        COMMAND,
        *("--guest", "plain", "--cpus", "4", "--mem", "1G"),
        timeout=SECONDS + 60,
    )


def test_guests_live_on():
    """More guests than the host has CPUs for patch their code, and none panics."""
    with ThreadPoolExecutor(GUESTS) as pool:
        results = list(pool.map(_guest, range(GUESTS)))
    for result in results:
        print(result.stdout)
        said = vm.lines(result.stdout, "^changes: ")
        assert int(said[0].split()[1]) > 100, result.tail()
