"""A local folder whose files are copied to a bucket, where nothing can be appended."""

from __future__ import annotations

import concurrent.futures
import pathlib
import tempfile
import time
from collections.abc import Callable

from absl import logging
from etils import epath


class BucketCopy:
    """Copies files that have grown, from time to time and when asked.

    Copies are made by another thread. A failed one is logged and made again with the
    next: what is copied is worth less than the run that writes it.
    """

    def __init__(
        self,
        target: epath.Path,
        *,
        every_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._temporary = tempfile.TemporaryDirectory(prefix="salt_jax_")
        self.folder = epath.Path(self._temporary.name)
        self._target = target
        self._every_seconds, self._clock = every_seconds, clock
        self._last = clock()
        self._sizes: dict[str, int] = {}
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "bucket_copy")
        self._copying: concurrent.futures.Future[None] | None = None

    def update(self) -> None:
        """Begins to copy, if the last copy began `every_seconds` ago and has ended."""
        is_busy = self._copying is not None and not self._copying.done()
        if not is_busy and self._clock() - self._last >= self._every_seconds:
            self._last = self._clock()
            self._copying = self._thread.submit(self._copy)

    def flush(self) -> None:
        """Copies what has changed, and waits for it."""
        self._last = self._clock()
        self._copying = self._thread.submit(self._copy)
        self._copying.result()

    def close(self) -> None:
        """Copies what has changed, and deletes the local folder."""
        self.flush()
        self._thread.shutdown()
        self._temporary.cleanup()

    def _copy(self) -> None:
        for file in sorted(pathlib.Path(self.folder).rglob("*")):
            name = str(file.relative_to(self.folder))
            if file.is_dir() or file.stat().st_size == self._sizes.get(name):
                continue
            contents = file.read_bytes()
            try:
                (self._target / name).write_bytes(contents)
            except Exception as error:  # Whatever the client of the bucket raises.
                said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                logging.warning(
                    "%s could not be written (%s): trying again with the next.",
                    self._target / name,
                    said,
                )
            else:
                self._sizes[name] = len(contents)
