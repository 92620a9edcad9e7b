"""What a person sees while an evaluation runs: where it is and how long it will still take."""

import time
from collections.abc import Mapping

EVERY_S = 10.0


class Progress:
    """Prints a line at most every ten seconds, with an estimate of the time left for this model.

    Args:
        title: What every line begins with.
        passes: For each stage, in order, about how many forward passes an image takes at most. The
            estimate assumes that as many images remain for later stages as for the present one, so
            it falls faster than the clock when attacks succeed.
        quiet: Print nothing.
    """

    def __init__(self, title: str, passes: Mapping[str, float], *, quiet: bool = False) -> None:
        self._title = title
        self._passes = dict(passes)
        self._quiet = quiet
        self._stage = ""
        self._images = self._of = 0
        self._worked = self._worked_s = 0.0
        self._since = time.monotonic()
        self._printed = -EVERY_S

    def begin(self, stage: str, of: int) -> None:
        """``stage`` begins on ``of`` images."""
        self._stage, self._images, self._of = stage, 0, of
        self._since = time.monotonic()
        self._say()

    def done(self, images: int, *, computed: bool = True) -> None:
        """So many more images are done with the stage; not ``computed``: read from the journal."""
        now = time.monotonic()
        if computed:
            self._worked += images * self._passes[self._stage]
            self._worked_s += now - self._since
        self._since = now
        self._images += images
        self._say()

    @property
    def left_s(self) -> float | None:
        """Seconds left; ``None`` before anything was measured."""
        if not self._worked:
            return None
        stages = list(self._passes)
        later = stages[stages.index(self._stage) + 1 :]
        work = (self._of - self._images) * self._passes[self._stage]
        work += self._of * sum(self._passes[stage] for stage in later)
        return work * self._worked_s / self._worked

    def _say(self) -> None:
        now = time.monotonic()
        if self._quiet or now - self._printed < EVERY_S:
            return
        self._printed = now
        left = self.left_s
        estimate = "" if left is None else f", at most about {duration(left)} left"
        print(  # noqa: T201  (a person reads it)
            f"{self._title}: {self._stage} {self._images}/{self._of} images{estimate}", flush=True
        )


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
