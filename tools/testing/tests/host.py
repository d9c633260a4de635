# SPDX-License-Identifier: GPL-2.0
"""A curious host: it reads the guest's shared memory again and again."""

import os
import re
import threading
from pathlib import Path

STEP = 16 << 20


class Watcher:
    """Looks for words in the shared memory, all the time while a guest runs.

    A bounce buffer is used again soon, so that looking at the end would miss most
    of what was there.
    """

    def __init__(self, path: Path, words: list[str]):
        self.path = path
        self.passes = 0
        self.seen = dict.fromkeys(words, 0)
        self._pattern = re.compile(
            b"|".join(re.escape(each.encode()) for each in words)
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self.look()

    def look(self) -> None:
        """Does one pass; keeps the largest count of each word that was ever seen."""
        try:
            with open(self.path, "rb") as file:
                found = self._search(file.fileno())
        except OSError:
            return
        self.passes += 1
        for word, count in found.items():
            self.seen[word] = max(self.seen[word], count)

    def _search(self, file: int) -> dict[str, int]:
        found = dict.fromkeys(self.seen, 0)
        at, size = 0, os.fstat(file).st_size
        while at < size:
            try:
                # Most of the file was never shared: it is a hole.
                at = os.lseek(file, at, os.SEEK_DATA)
                end = os.lseek(file, at, os.SEEK_HOLE)
            except OSError:
                break
            while at < end:
                data = os.pread(file, min(STEP, end - at), at)
                if not data:
                    return found
                for hit in self._pattern.findall(data):
                    found[hit.decode()] += 1
                at += len(data)
        return found
