"""A viewer of an execution's event stream whose connection breaks again and again."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httpx2

Frame = tuple[int, str, dict[str, Any]]
"""Position in the log, event, data."""


class Viewer(threading.Thread):
    """Read to the end, hanging up `breaks` times after a random number of bytes.

    That is often in the middle of a frame.
    """

    def __init__(
        self,
        client: Callable[[], httpx2.Client],
        execution: int,
        *,
        breaks: int,
        seed: int,
        bytes_at_most: int,
    ) -> None:
        super().__init__(name=f"viewer-{seed}", daemon=True)
        self.frames: list[Frame] = []
        self.connections = 0
        self.broken: BaseException | None = None
        self._client = client
        self._path = f"/executions/{execution}/events"
        self._breaks = breaks
        self._random = random.Random(seed)
        self._bytes_at_most = bytes_at_most

    def run(self) -> None:
        """Read until the `end` event."""
        try:
            with self._client() as http:
                while not (self.frames and self.frames[-1][1] == "end"):
                    self._connect(http)
        except BaseException as broken:
            self.broken = broken

    def watched(self, seconds: float) -> list[Frame]:
        """Return all frames, once the end has arrived."""
        self.join(seconds)
        assert not self.is_alive(), (
            f"the stream did not come to its end; seen so far: {self.frames[-3:]}"
        )
        if self.broken is not None:
            raise self.broken
        return self.frames

    def _connect(self, http: httpx2.Client) -> None:
        self.connections += 1
        left = (
            self._random.randint(1, self._bytes_at_most)
            if self.connections <= self._breaks
            else None
        )
        last = {"last-event-id": str(self.frames[-1][0])} if self.frames else {}
        text = b""
        with http.stream("GET", self._path, headers=last) as answer:
            assert answer.status_code == 200, answer.read()
            for portion in answer.iter_raw():
                text += portion if left is None else portion[:left]
                *whole, text = text.split(b"\n\n")
                self.frames += [frame for block in whole if (frame := _frame(block)) is not None]
                left = None if left is None else left - len(portion)
                if left is not None and left <= 0:
                    return


def streams(frames: list[Frame]) -> dict[tuple[str, str], bytes]:
    """Return the bytes of each (target id, stream), assembled from the events."""
    found: dict[tuple[str, str], bytearray] = defaultdict(bytearray)
    for position, kind, data in frames:
        if kind == "output":
            stream = found[data["target"], data["stream"]]
            assert data["offset"] == len(stream), (position, data["offset"], len(stream))
            stream += (
                base64.b64decode(data["data_base64"])
                if "data_base64" in data
                else data["data"].encode()
            )
    return {key: bytes(stream) for key, stream in found.items()}


def _frame(block: bytes) -> Frame | None:
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(": ")
        if name:  # a line that begins with a colon is a comment: the keep-alive
            fields[name] = value
    return (
        (int(fields["id"]), fields["event"], json.loads(fields["data"]))
        if "data" in fields
        else None
    )
