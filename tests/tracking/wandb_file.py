"""Reads the file that the wandb client writes: a LevelDB log of protobuf records."""

import json
import struct
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32 * 1024, 7
FULL, LAST = 1, 4


class Content(NamedTuple):
    """What was logged."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    artifacts: list[Any]
    exit_code: int | None


def read(path):
    """The records of a file, put together."""
    found = [Record.FromString(each) for each in _records(path.read_bytes())]
    config, summary = {}, {}
    for each in found:
        _put(summary, each.summary.update)
        for update in (each.run.config, each.config):
            _put(config, update.update)
    return Content(
        run=next(each.run for each in found if each.HasField("run")),
        config=config,
        history=[_put({}, each.history.item) for each in found if each.HasField("history")],
        summary=summary,
        artifacts=[each.artifact for each in found if each.HasField("artifact")],
        exit_code=next((each.exit.exit_code for each in found if each.HasField("exit")), None),
    )


def _put(target, items):
    for item in items:
        *path, key = item.nested_key or [item.key]
        inner = target
        for each in path:
            inner = inner.setdefault(each, {})
        inner[key] = json.loads(item.value_json)
    return target


def _records(content):
    """The parts of 32 KiB blocks, each after its checksum, length and kind."""
    position, parts = HEADER, []
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # too little for another part: padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts.append(content[position + HEADER :][:length])
        position += HEADER + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []
