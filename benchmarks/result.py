"""What a line of the benchmark hands back."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.timing import ratios


@dataclass
class Result:
    """Times of several contestants that did the same work.

    Attributes:
        title: What was done.
        seconds: Of each round, by contestant; the first is ours, which ratios refer to.
        images: Images of one time, or 0 if there are none to count.
        refused: Contestants that did different work, and what; their times are left out.
        details: More for the JSON, and for the lines below the table.
    """

    title: str
    seconds: dict[str, list[float]]
    images: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Whose time is 1."""
        return next(iter(self.seconds))

    def refuse(self, refused: dict[str, str]) -> None:
        """Leave contestants out, with the reason."""
        self.refused |= refused
        self.seconds = {name: each for name, each in self.seconds.items() if name not in refused}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the JSON."""
        found = {name: each._asdict() for name, each in ratios(self.seconds, self.base).items()}
        return {
            "title": self.title,
            "images": self.images,
            "seconds": self.seconds,
            "ratios": found,
            "refused": self.refused,
            **self.details,
        }
