# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Fault injection for the script run, with the kernel's own framework: conversions fail,
# memory is short, kccd does not get to run, the cap is reached. The faults come one
# after the other, as the framework has one set of numbers for all functions.

functions=/sys/kernel/debug/fail_function
parameters=/sys/module/cc_swiotlb/parameters
turn=0
injected_names='share both unshare block page slab idle cap'
for name in $injected_names; do
	eval "injected_$name=0"
done

add()
{
	eval "injected_$1=\$((injected_$1 + $2))"
}

all_injected()
{
	for name in $injected_names; do
		eval "[ \$injected_$name -gt 0 ]" || return
	done
}

say_faults()
{
	text=''
	for name in $injected_names; do
		eval "text=\"$text $name=\$injected_$name\""
	done
	say "injected:$text"
}

# Sets the watermark to so many bytes, or to two chunks more than are shared now, so
# that kccd has to convert memory.
want_more()
{
	kept_watermark=$(cat $parameters/watermark)
	echo "${1:-$(($(counter shared_bytes) + 4194304))}" >$parameters/watermark
}

want_as_before()
{
	echo "$kept_watermark" >$parameters/watermark
}

# fail_function COUNT NAME...: the next COUNT calls of these functions fail.
fail_function()
{
	budget=$1
	shift
	echo 0 >$functions/probability
	echo 0 >$functions/verbose
	for name in "$@"; do
		echo "$name" >$functions/inject
	done
	echo "$budget" >$functions/times
	echo 100 >$functions/probability
}

# Sets "injected" to the number of calls that failed.
no_more_failures()
{
	echo 0 >$functions/probability
	echo >$functions/inject
	injected=$((budget - $(cat $functions/times)))
}

# Waits until all calls that should fail have failed, three seconds at most.
while_it_fails()
{
	for _ in $(seq 15); do
		[ "$(cat "$1/times")" -gt 0 ] || break
		sleep 0.2
	done
}

# Sets "leaked" to the bytes that were lost since the last call.
note_leaked()
{
	leaked=$(($(counter leaked_bytes) - ${leaked_so_far:-0}))
	leaked_so_far=$(counter leaked_bytes)
}

# Requires that no memory is lost: a failed call is made good.
require_no_loss()
{
	# A chunk that is in an unknown state counts as lost until it is tried again.
	for _ in $(seq 100); do
		[ "$(counter leaked_bytes)" -gt "${leaked_so_far:-0}" ] || break
		sleep 0.1
	done
	note_leaked
	[ $leaked -eq 0 ] || bad "leaked: $leaked bytes, after $1 has failed"
	converted=$((converted + injected))
	add "$2" "$injected"
}

conversions()
{
	fail_function 3 cc_swiotlb_share
	want_more
	while_it_fails $functions
	no_more_failures
	want_as_before
	require_no_loss cc_swiotlb_share share
}

# conversions_back COUNT NAME...: shares more than is wanted, so that the idle memory
# becomes private again, while the next COUNT calls of these functions fail.
conversions_back()
{
	want_more
	sleep 1
	want_as_before
	fail_function "$@"
	while_it_fails $functions
	no_more_failures
}

# Memory that can neither be made private nor be shared is kept. If kccd has to share
# memory at this moment, that may be all that fails.
both()
{
	conversions_back 2 cc_swiotlb_unshare cc_swiotlb_share
	require_no_loss "cc_swiotlb_unshare and cc_swiotlb_share" both
}

# allocations KIND FOLDER: half of kccd's allocations fail.
allocations()
{
	budget=20
	echo 0 >"$2/probability"
	echo 0 >"$2/verbose"
	echo N >"$2/ignore-gfp-wait"
	echo Y >"$2/task-filter"
	echo "$budget" >"$2/times"
	echo 1 >"/proc/$kccd/make-it-fail"
	echo 50 >"$2/probability"
	# Ask for more than there ever was: the descriptions of chunks are kept for
	# good, and only new ones are allocated. In a long run the cap ends this.
	want_more $(($(counter peak_shared_bytes) + 16777216))
	while_it_fails "$2"
	echo 0 >"$2/probability"
	echo 0 >"/proc/$kccd/make-it-fail"
	add "$1" $((budget - $(cat "$2/times")))
	want_as_before
}

# kccd gets no memory for two seconds.
starve()
{
	fail_function 1000000 cc_swiotlb_alloc_block
	want_more
	sleep 2
	no_more_failures
	want_as_before
	add block $injected
}

# kccd gets only the time that others leave, on one CPU.
idle()
{
	renice 19 -p "$kccd" >/dev/null
	taskset -p 1 "$kccd" >/dev/null
	want_more
	sleep 2
	want_as_before
	taskset -p ffffffff "$kccd" >/dev/null
	renice "$kccd_nice" -p "$kccd" >/dev/null
	add idle 1
}

cap()
{
	kept_max=$(cat $parameters/max)
	echo 2M >$parameters/max
	want_more
	sleep 2
	want_as_before
	echo "$kept_max" >$parameters/max
	add cap 1
}

# Injects the next fault of the round.
next_fault()
{
	turn=$((turn % 8 + 1))
	case $turn in
	1) conversions ;;
	2) starve ;;
	3) both ;;
	4) allocations slab /sys/kernel/debug/failslab ;;
	5) cap ;;
	6) allocations page /sys/kernel/debug/fail_page_alloc ;;
	7)
		conversions_back 1 cc_swiotlb_unshare
		require_no_loss cc_swiotlb_unshare unshare
		;;
	8) idle ;;
	esac
	sleep 0.5
}

note_leaked
kccd=$(pidof kccd)
kccd_nice=$(cut -d ' ' -f 19 "/proc/$kccd/stat")
