"""Reads the file that the wandb client writes: a LevelDB log of protobuf records."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class Content(NamedTuple):
    """What was logged."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    artifacts: list[Any]
    exit_code: int | None


def read(path: Path) -> Content:
    """The records of a file, put together."""
    found = [Record.FromString(each) for each in _records(path.read_bytes())]
    runs = [each.run for each in found if each.HasField("run")]
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for each in found:
        for item in each.summary.update:
            _put(summary, item)
        for update in (each.run.config, each.config):
            config |= {item.key: json.loads(item.value_json) for item in update.update}
    return Content(
        run=runs[0],
        config=config,
        history=[_row(each.history) for each in found if each.HasField("history")],
        summary=summary,
        artifacts=[each.artifact for each in found if each.HasField("artifact")],
        exit_code=next((each.exit.exit_code for each in found if each.HasField("exit")), None),
    )


def _row(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:
        _put(row, item)
    return row


def _put(target: dict[str, Any], item: Any) -> None:
    *path, key = item.nested_key or [item.key]
    for each in path:
        target = target.setdefault(each, {})
    target[key] = json.loads(item.value_json)


def _records(content: bytes) -> Iterator[bytes]:
    assert content[:HEADER] == struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
    position, parts = HEADER, []
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # too little for another chunk: padding
            assert not any(content[position : position + left])
            position += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        data = content[position + HEADER : position + HEADER + length]
        assert len(data) == length
        assert zlib.crc32(bytes([kind]) + data) == checksum
        position += HEADER + length
        assert bool(parts) == (kind in (MIDDLE, LAST))
        parts.append(data)
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []
    assert not parts
