"""Hashes by which a reader notices that a file is not what was written."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SHA256 = "sha256"  # the key of a content's own hash


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with its own hash, for :func:`opened`; first, where no file is cut off."""
    return {SHA256: content_sha256(content), **content}


def opened(content: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`sealed` got; content without a hash, as older versions wrote it, is as it is.

    Raises:
        ValueError: If the hash is another content's.
    """
    rest = {key: value for key, value in content.items() if key != SHA256}
    if SHA256 in content and str(content[SHA256]) != content_sha256(rest):
        raise ValueError("its content has changed since it was written")
    return rest


def content_sha256(content: object) -> str:
    """SHA-256 in hex over tensors, arrays and plain values in dicts and lists, however stored.

    Of tensors and arrays it covers names, types, shapes and numbers.
    """
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:  # noqa: ANN401
        if isinstance(value, np.ndarray):
            digest.update(f"{name} {value.dtype} {value.shape} ".encode() + value.tobytes())
        elif hasattr(value, "detach"):  # a tensor
            import torch  # takes seconds where there is none

            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
        elif value and isinstance(value, (Mapping, list, tuple)):
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, each in pairs:
                add(f"{name}.{key}" if name else str(key), each)
        else:
            digest.update(f"{name} {value!r} ".encode())

    add("", content)
    return digest.hexdigest()
