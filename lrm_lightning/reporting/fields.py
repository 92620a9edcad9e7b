"""Reading JSON that may be damaged, or not ours at all."""

import math
from collections.abc import Mapping
from typing import Any

MAX_TEXT = 400


class FieldError(ValueError):
    """A field is missing or is not what it must be; the message names it."""


class Fields:
    """Checked access to one JSON object.

    Args:
        content: The object.
        where: What to put before a key in messages.

    Raises:
        FieldError: From every method, if the field isn't there and has no default, or is wrong.
    """

    def __init__(self, content: Any, where: str = "") -> None:  # noqa: ANN401
        if not isinstance(content, Mapping):
            raise FieldError(f"{where or 'the file'} is no JSON object")
        self.content: Mapping[str, Any] = content
        self._where = f"{where}." if where else ""

    def text(self, key: str, default: str | None = None) -> str:
        """A text on one line, without control characters."""
        value = self.content.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self._wrong(key, "a text")
        return printable(value)

    def whole(self, key: str, *, low: int) -> int:
        """A whole number, at least ``low``."""
        value = self.content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise self._wrong(key, f"a whole number >= {low}")
        return value

    def maybe_whole(self, key: str, *, low: int) -> int | None:
        """The same, or ``None`` if it isn't there."""
        return None if self.content.get(key) is None else self.whole(key, low=low)

    def flag(self, key: str) -> bool | None:
        """True, false, or ``None`` if it isn't there."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def part(self, key: str, *, required: bool = True) -> "Fields":
        """The object under ``key``; an empty one if it needn't be there."""
        value = self.content.get(key)
        if value is None and not required:
            value = {}
        if not isinstance(value, Mapping):
            raise self._wrong(key, "an object")
        return Fields(value, f"{self._where}{key}")

    def items(self, key: str, *, required: bool = True) -> list[Any]:
        """The list under ``key``."""
        value = self.content.get(key)
        if value is None and not required:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers."""
        values = self.items(key)
        if not all(is_number(value) for value in values):
            raise self._wrong(key, "a list of numbers")
        return [float(value) for value in values]

    def accuracies(self, key: str) -> dict[str, float]:
        """Names to numbers in [0, 1]."""
        found = self.part(key).content
        if not all(is_share(value) for value in found.values()):
            raise self._wrong(key, "accuracies in [0, 1]")
        return {printable(str(name)): float(value) for name, value in found.items()}

    def intervals(self, key: str) -> dict[str, tuple[float, float]]:
        """Names to pairs ``low <= high`` in [0, 1]."""
        found = self.part(key, required=False).content
        if not all(is_interval(value) for value in found.values()):
            raise self._wrong(key, "pairs of numbers in [0, 1]")
        return {printable(str(name)): (value[0], value[1]) for name, value in found.items()}

    def _wrong(self, key: str, wanted: str) -> FieldError:
        if key not in self.content:
            return FieldError(f"{self._where}{key} is missing")
        return FieldError(f"{self._where}{key} must be {wanted}")


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number; JSON in Python also reads NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value: object) -> bool:
    """Whether ``value`` is a number in [0, 1]."""
    return isinstance(value, (int, float)) and is_number(value) and 0 <= value <= 1


def is_interval(value: object) -> bool:
    """Whether ``value`` is a pair ``low <= high`` in [0, 1]."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    low, high = value
    return is_share(low) and is_share(high) and low <= high


def printable(text: str) -> str:
    """``text`` on one line, without control or direction characters, of a length one can read."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= MAX_TEXT else clean[: MAX_TEXT - 1] + "…"
