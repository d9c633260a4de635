# SPDX-License-Identifier: GPL-2.0
"""Writes the cpio archives that the kernel unpacks as its first file system.

The format is "newc" of Documentation/driver-api/early-userspace/
buffer-format.rst.  The kernel accepts several archives one after the other.
"""

import stat
from pathlib import Path
from typing import BinaryIO


class Archive:
    """An archive that is being written; everything in it belongs to root."""

    def __init__(self, output: BinaryIO):
        self._output = output
        self._inode = 0
        self._folders: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes, device=(0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        numbers = (
            self._inode,
            mode,
            0,  # user
            0,  # group
            1,  # links
            0,  # time
            len(data),
            0,
            0,  # device the file is on
            *device,
            len(encoded),
            0,  # checksum
        )
        header = b"070701" + b"".join(b"%08X" % number for number in numbers)
        self._output.write(header + encoded)
        self._output.write(b"\0" * (-len(header + encoded) % 4))
        self._output.write(data)
        self._output.write(b"\0" * (-len(data) % 4))

    def folder(self, name: str) -> None:
        """Adds a folder and the folders it is in, each once."""
        name = name.strip("/")
        if not name or name in self._folders:
            return
        self.folder(name.rpartition("/")[0])
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Adds a file."""
        self.folder(name.strip("/").rpartition("/")[0])
        self._entry(name.strip("/"), stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Adds a symbolic link."""
        self.folder(name.strip("/").rpartition("/")[0])
        self._entry(name.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        """Adds a character device."""
        self.folder(name.strip("/").rpartition("/")[0])
        self._entry(name.strip("/"), stat.S_IFCHR | 0o600, b"", (major, minor))

    def tree(self, path: Path, name: str) -> None:
        """Adds a file or folder of the host, with all that is in it."""
        if path.is_dir():
            self.folder(name)
            for child in sorted(path.iterdir()):
                if child.is_symlink():
                    self.link(f"{name}/{child.name}", str(child.readlink()))
                elif child.is_dir() or child.is_file():
                    self.tree(child, f"{name}/{child.name}")
        else:
            self.file(name, path.read_bytes(), path.stat().st_mode & 0o777)

    def finish(self) -> None:
        """Writes the end of the archive."""
        self._entry("TRAILER!!!", 0, b"")
        self._output.write(b"\0" * (-self._output.tell() % 512))
