# SPDX-License-Identifier: GPL-2.0
"""The virtual machine: the arguments of QEMU and of the guest's kernel.

A plain guest is an ordinary one.  The confidential guest is emulated (see
tools/testing/patches): SHARED_BIT splits the guest-physical address space in
two, and memory behind it is a DIMM of its own, backed by a file that is all
the host gets to see.  Offset N in that file is guest-physical address N.
"""

import dataclasses
import os
import re
from pathlib import Path

from lib import disks
from lib.failure import Failure

MIB = 1 << 20
GIB = 1 << 30

QEMU = "qemu-system-x86_64"

# No five-level page tables: while the kernel identifies the CPU, it forgets for a
# moment that it uses them, and KASAN takes the memory that an interrupt touches in this
# moment for invalid. And no fast string instructions: QEMU copies byte by byte where
# the kernel uses them, and eight bytes at a time where it does without.
CPU = "max,la57=off,erms=off,fsrm=off,fsrs=off,fzrm=off"
TCG_LAPIC_TIMER_HZ = 1_000_000_000

# Above all guest memory and above the hole below 4 GiB, within the 40 address
# bits of QEMU's TCG, and without a bit that a guest page could have.
SHARED_BIT = 0x1000000000
MAX_MEMORY = 32 * GIB
MIN_MEMORY = 256 * MIB
MAX_NODES = 8
# CONFIG_NR_CPUS.
MAX_CPUS = 64

# The q35 machine puts all memory below 4 GiB if it is less than this, and
# otherwise 2 GiB there and the rest from 4 GiB on.
LOW_LIMIT = 0xB0000000

# Each NVMe request of more than two pages takes a page of coherent memory, without
# waiting. The kernel has 128 KiB of it for each GiB of memory, and more only after a
# while, which on a busy host is too late. With more disks than this it gets the most
# that a large guest has by default.
FEW_NVME = 8
COHERENT_POOL = "4M"

# The unit in which the guest's kernel adds memory and puts it online.
MEMORY_BLOCK = 128 * MIB
# Guest-physical addresses for all memory that can be plugged, the shared one included.
MAX_ADDRESS = "200G"


@dataclasses.dataclass(frozen=True)
class Files:
    """The files that the machine of one run is made from."""

    kernel: Path
    initrd: Path
    disks: Path
    delay: Path | None
    """The socket of the server that delays requests to the disks."""
    vhost: Path | None
    """The folder with the sockets of disks in processes of their own."""
    shared: Path | None
    """The shared memory of a confidential guest."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A NUMA node. Either value may be 0."""

    cpus: int
    memory: int


@dataclasses.dataclass(frozen=True)
class Plug:
    """Memory that is plugged in so many seconds after the command's start."""

    size: int
    seconds: float


@dataclasses.dataclass
class Options:
    """The options that the user chose."""

    guest: str = "coco"
    swiotlb: str = "cc"
    cpus: int = 2
    memory: int = GIB
    nodes: list["Node"] = dataclasses.field(default_factory=list)
    """NUMA nodes; none is one that has all."""
    nvme: int = 1
    blk: int = 1
    scsi: int = 0
    ahci: int = 0
    vhost_blk: int = 0
    """Disks in processes of their own that have the shared memory only."""
    vhost_modes: list[str] = dataclasses.field(default_factory=lambda: ["honest"])
    """How each of them behaves; the last one counts for all that follow."""
    vhost_seed: int = 1
    vhost_window: int = 0
    """How much of that memory they take for shared; 0 is all."""
    vhost_seek: str = ""
    """Words that they look for, with commas between them."""
    plugs: list[Plug] = dataclasses.field(default_factory=list)
    net: bool = False
    latency_ms: int = 0
    null_ms: int | None = None
    """Disks without content that hold each request for so long."""
    convert_us: int = 0
    append: str = ""
    accel: str = ""
    qemu: list[str] = dataclasses.field(default_factory=list)


def parse_size(text: str) -> int:
    """512M, 1G, 4096 (MiB, as in QEMU) to bytes."""
    units = {"K": 1 << 10, "M": MIB, "G": GIB}
    try:
        if text[-1:].upper() in units:
            size = int(text[:-1]) * units[text[-1].upper()]
        else:
            size = int(text) * MIB
    except ValueError:
        raise Failure(f"--mem {text}: the form is 512M or 4G") from None
    if not MIN_MEMORY <= size <= MAX_MEMORY or size % (2 * MIB):
        raise Failure(
            f"--mem {text}: between {MIN_MEMORY // MIB}M and {MAX_MEMORY // GIB}G, "
            "a multiple of 2M"
        )
    return size


def parse_nodes(text: str, cpus: int, memory: int) -> list[Node]:
    """2, or 4:512M,0:512M (CPUs and memory of each), to the nodes of a guest."""
    if text == "1":
        return []
    if text.isdecimal():
        count = int(text)
        if not 1 < count <= MAX_NODES:
            raise Failure(f"--nodes {text}: from 1 to {MAX_NODES}")
        if cpus % count:
            raise Failure(f"--nodes {text}: {cpus} CPUs cannot be shared out evenly")
        if memory % (count * 2 * MIB):
            raise Failure(
                f"--nodes {text}: {memory // MIB}M of memory cannot be shared out "
                "evenly, in multiples of 2M"
            )
        return [Node(cpus // count, memory // count)] * count
    found = re.findall(r"(\d+):(\d+)([MG]?)(?:,|$)", text)
    nodes = [
        Node(int(count), int(size) * (GIB if unit == "G" else MIB))
        for count, size, unit in found
    ]
    if not re.fullmatch(r"(\d+:\d+[MG]?)(,\d+:\d+[MG]?)*", text):
        raise Failure(f"--nodes {text}: the form is 2, or 4:512M,0:512M")
    if not 1 < len(nodes) <= MAX_NODES:
        raise Failure(f"--nodes {text}: a list has from 2 to {MAX_NODES} nodes")
    if any(node.memory % (2 * MIB) for node in nodes):
        raise Failure(f"--nodes {text}: memory comes in multiples of 2M")
    if any(not node.cpus and not node.memory for node in nodes):
        raise Failure(f"--nodes {text}: a node has CPUs or memory")
    if sum(node.cpus for node in nodes) != cpus:
        raise Failure(f"--nodes {text}: the guest has {cpus} CPUs (--cpus)")
    if sum(node.memory for node in nodes) != memory:
        raise Failure(f"--nodes {text}: the guest has {memory // MIB}M (--mem)")
    return nodes


def parse_plug(text: str) -> Plug:
    """512M@10 to memory that is plugged in."""
    found = re.fullmatch(r"(\d+)([MG])@(\d+(?:\.\d+)?)", text)
    if not found:
        raise Failure(f"--plug {text}: the form is 512M@10, the time in seconds")
    size = int(found[1]) * (GIB if found[2] == "G" else MIB)
    if not size or size % MEMORY_BLOCK:
        raise Failure(f"--plug {text}: a multiple of {MEMORY_BLOCK // MIB}M")
    return Plug(size, float(found[3]))


def _ram_end(options: Options) -> int:
    """The end of the memory that is there at boot."""
    if options.memory < LOW_LIMIT:
        return options.memory
    return 4 * GIB + options.memory - 2 * GIB


def plug_addresses(options: Options) -> list[int]:
    """The address of each plugged memory: one lies behind the other."""
    # The machine's place for plugged memory begins there.
    address = max(4 * GIB, -(-_ram_end(options) // GIB) * GIB)
    found = []
    for plug in options.plugs:
        found.append(address)
        address += plug.size
    return found


def shared_size(options: Options) -> int:
    """The size of the file that is the guest's shared memory."""
    if options.plugs:
        return plug_addresses(options)[-1] + options.plugs[-1].size
    return _ram_end(options)


def kernel_arguments(options: Options) -> str:
    """The kernel's command line."""
    words = ["console=ttyS0,115200", "panic=-1", "rdinit=/init"]
    if options.guest == "coco":
        words.append(f"cc_emul={SHARED_BIT:#x}")
        if options.convert_us:
            words.append(f"cc_emul.convert_us={options.convert_us}")
    else:
        words.append("swiotlb=force")
    if options.swiotlb == "legacy":
        words.append("cc_swiotlb.enable=0")
    elif options.guest == "plain":
        words.append("cc_swiotlb.enable=1")
    if options.accel.startswith("tcg") or not options.accel:
        words.append(f"lapic_timer_hz={TCG_LAPIC_TIMER_HZ}")
        # As on KVM: on a busy host the timer may not tick as often as the kernel wants to
        # see it do so in a few milliseconds, and then it panics.
        words.append("no_timer_check")
        # On a busy host an interrupt gets lost now and then: the driver looks for the
        # completion after this many seconds, not after 60.
        words.append("nvme_core.admin_timeout=10")
        # As in guests of TDX. Otherwise the kernel compares the clocks of two CPUs, and
        # waits for the other one with interrupts disabled. While its only clock is the
        # tick, it waits for ever if that CPU is about to stop the machine: once in some
        # 250 boots.
        words.append("tsc=reliable")
    if options.nvme > FEW_NVME:
        words.append(f"coherent_pool={COHERENT_POOL}")
    if options.plugs:
        words.append("memhp_default_state=online")
    if options.append:
        words.append(options.append)
    return " ".join(words)


def _private(name: str, size: int) -> list[str]:
    # A guest may be larger than the host's memory as long as it does not use it.
    return ["-object", f"memory-backend-ram,id={name},size={size},reserve=off"]


def _numa(nodes: list[Node]) -> list[str]:
    words = []
    first = 0
    for index, node in enumerate(nodes):
        numa = f"node,nodeid={index}"
        if node.cpus:
            numa += f",cpus={first}-{first + node.cpus - 1}"
            first += node.cpus
        if node.memory:
            words += _private(f"private{index}", node.memory)
            numa += f",memdev=private{index}"
        words += ["-numa", numa]
    return words


def _memory(options: Options, shared: Path | None) -> list[str]:
    """QEMU's arguments for memory, nodes of CPUs, and the kind of machine."""
    size = options.memory
    if options.nodes:
        words = ["-machine", "q35", *_numa(options.nodes)]
    else:
        words = ["-machine", "q35,memory-backend=private", *_private("private", size)]
    slots = len(options.plugs) + (options.guest == "coco")
    if not slots:
        return [*words, "-m", f"{size // MIB}M"]
    words += ["-m", f"{size // MIB}M,slots={slots},maxmem={MAX_ADDRESS}"]
    if options.guest != "coco":
        return words
    words += ["-object"]
    words.append(
        f"memory-backend-file,id=shared,size={shared_size(options)},share=on,"
        f"reserve=off,mem-path={shared}"
    )
    return [*words, "-device", f"pc-dimm,memdev=shared,addr={SHARED_BIT:#x}"]


def command(
    options: Options, files: Files, serials: list[int], monitor: int
) -> list[str]:
    """QEMU's command line; serials and monitor are descriptors of connected sockets."""
    accel = options.accel or "tcg,thread=multi"
    words = [QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    words += ["-accel", accel, "-cpu", CPU]
    smp = str(options.cpus)
    if options.nodes:
        # The CPUs of a socket belong to one node.
        smp += f",sockets={options.cpus}"
    words += ["-smp", smp, *_memory(options, files.shared)]
    words += ["-kernel", str(files.kernel), "-initrd", str(files.initrd)]
    words += ["-append", kernel_arguments(options)]
    for index, descriptor in enumerate(serials):
        words += ["-chardev", f"socket,id=serial{index},fd={descriptor}"]
        # The third port would share an interrupt with the first; 5 is level-triggered.
        own = ",irq=6" if index == 2 else ""
        words += ["-device", f"isa-serial,index={index},chardev=serial{index}{own}"]
    if options.plugs:
        words += ["-chardev", f"socket,id=monitor,fd={monitor}"]
        words += ["-mon", "chardev=monitor,mode=control"]
    words += disks.arguments(options, files.disks, files.delay, files.vhost)
    if options.net:
        words += ["-netdev", "user,id=net0", "-device"]
        words.append(
            "virtio-net-pci,netdev=net0,romfile=,disable-legacy=on,iommu_platform=on"
        )
    return words + options.qemu


def environment() -> dict[str, str]:
    """QEMU's environment: nothing that makes it write elsewhere."""
    return {
        name: value for name, value in os.environ.items() if name != "QEMU_AUDIO_DRV"
    }
