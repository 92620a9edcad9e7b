"""The paper's white-box evaluation: Table 1, the curve of section 5.3, logits of Fig. 1 and 2."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from lrm_lightning.attacks import PGDAttack
from lrm_lightning.checks import check_integer
from lrm_lightning.diagnostics import LogitStatistics
from lrm_lightning.evaluation.bench import Bench, Outcome, predict
from lrm_lightning.evaluation.images import starts
from lrm_lightning.evaluation.journal import Piece

STAGE = "trajectory"


@dataclass(frozen=True, kw_only=True)
class PaperSuite:
    """Natural, FGSM, PGD-k and the accuracy after every step, all from one trajectory an image.

    PGD-k is the last iterate of k steps from one random start, as the paper reports it, of every
    image, the misclassified ones included.

    Attributes:
        steps: Length of the trajectory.
        table: The k that are metrics.
        logits_at: The k whose images are the adversarial ones of the logits and the gallery.
        bins: Bins of the logits' histograms.

    Raises:
        ValueError: If a setting is out of range.

    References:
        Summers & Dinneen, sections 5.1 to 5.3.
    """

    name: ClassVar[str] = "paper"
    steps: int = 200
    table: Sequence[int] = (5, 10, 20, 200)
    logits_at: int = 20
    bins: int = 100

    def __post_init__(self) -> None:
        """Check every range."""
        check_integer("steps", self.steps, low=1)
        check_integer("bins", self.bins, low=2)
        if isinstance(self.table, (int, str)) or not self.table:
            raise ValueError(
                f"table={self.table!r} must be a list of step counts, e.g. [5, 10, 20]"
            )
        for name, step in [("logits_at", self.logits_at), *(("table", k) for k in self.table)]:
            check_integer(name, step, low=1)
            if step > self.steps:
                raise ValueError(f"{name}={step} must be at most steps={self.steps}")

    def as_dict(self) -> dict[str, Any]:
        """All settings, as JSON."""
        return asdict(self) | {"table": list(self.table)}

    def describe(self, threat: PGDAttack) -> dict[str, Any]:
        """The attack of the table, as JSON."""
        return threat.as_dict() | {"steps": sorted(set(self.table))}

    @property
    def passes(self) -> dict[str, float]:
        """Forward passes an image takes in each stage; one with a backward pass counts three."""
        return {STAGE: 3 * (self.steps + 2)}

    def run(self, bench: Bench) -> Outcome:
        """Evaluate the network on ``bench``.

        Raises:
            ValueError: If the network returns something else than finite logits.
        """
        n = len(bench.images.y)
        classes = predict(bench.network, bench.images.x[: bench.batch_size]).shape[1]
        results = bench.fill(
            STAGE,
            np.arange(n),
            lambda places: self._trajectory(bench, places),
            {
                "clean": np.zeros((n, classes), np.float32),
                "adversarial": np.zeros((n, classes), np.float32),
                "fgsm": np.zeros(n, bool),
                "pgd": np.zeros((n, self.steps + 1), bool),
            },
        )
        by_step = results["pgd"]
        correct = {
            "clean": results["clean"].argmax(axis=1) == bench.images.y.cpu().numpy(),
            "fgsm": results["fgsm"],
            **{f"pgd{step}": by_step[:, step] for step in sorted(set(self.table))},
        }
        gallery, arrays = self._gallery(bench)
        details = {
            "curve": {
                "steps": list(range(self.steps + 1)),
                "accuracy": by_step.mean(axis=0).tolist(),
            },
            "logits": logit_distributions(
                {kind: results[kind] for kind in ("clean", "adversarial")}, bins=self.bins
            ),
            "gallery": gallery,
        }
        return Outcome(correct, details, arrays)

    def _trajectory(self, bench: Bench, places: np.ndarray) -> Piece:
        x, y = bench.images.rows(places)
        path = bench.threat.trajectory(
            bench.network,
            x,
            y,
            range(self.steps + 1),
            start=starts(bench.threat, bench.images, places, bench.seed, "paper"),
            keep_images=False,
        )
        verdicts = [iterate.logits.argmax(dim=1) == y for iterate in path.iterates.values()]
        return {
            "clean": path.logits.cpu().numpy(),
            "adversarial": path.iterates[self.logits_at].logits.cpu().numpy(),
            "fgsm": (path.fgsm.logits.argmax(dim=1) == y).cpu().numpy(),
            "pgd": torch.stack(verdicts, dim=1).cpu().numpy(),
        }

    def _gallery(self, bench: Bench) -> tuple[list[dict[str, int]], dict[str, np.ndarray]]:
        """A few images, attacked again with the same starts, this time to be looked at."""
        shown = bench.images.shown
        x, y = bench.images.rows(shown)
        start = starts(bench.threat, bench.images, shown, bench.seed, "paper")
        path = bench.threat.trajectory(bench.network, x, y, [self.logits_at], start=start)
        last = path.iterates[self.logits_at]
        assert last.x_adv is not None
        columns = {
            "index": bench.images.index[shown],
            "y": y.cpu().numpy(),
            "clean": path.logits.argmax(dim=1).cpu().numpy(),
            "adversarial": last.logits.argmax(dim=1).cpu().numpy(),
        }
        listed = [
            {name: int(values[row]) for name, values in columns.items()}
            for row in range(len(shown))
        ]
        arrays = {f"gallery_{name}": values for name, values in columns.items()}
        arrays["gallery_x"] = x.mul(255).round().to(torch.uint8).cpu().numpy()
        arrays["gallery_x_adv"] = last.x_adv.cpu().numpy()
        return listed, arrays


def logit_distributions(logits: dict[str, np.ndarray], *, bins: int) -> dict[str, dict[str, Any]]:
    """Histograms of all logits over the same bins, with their size.

    Args:
        logits: Kind to logits, shape ``(n, C)``.
        bins: Number of bins, of equal width.

    Returns:
        Kind to ``variance``, ``range`` and ``norm`` (see
        :func:`~lrm_lightning.diagnostics.logit_statistics`), ``edges`` (``bins + 1``) and
        ``counts``.

    References:
        Summers & Dinneen, Fig. 1 left and Fig. 2 right.
    """
    low = min(float(each.min()) for each in logits.values())
    high = max(float(each.max()) for each in logits.values())
    edges = np.histogram_bin_edges(np.array([low, high]), bins=bins)
    described = {}
    for kind, values in logits.items():
        statistics = LogitStatistics()
        statistics.update(torch.from_numpy(values))
        counts, _ = np.histogram(values.astype(np.float64), bins=edges)
        described[kind] = {
            **{name: float(value) for name, value in statistics.compute().items()},
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        }
    return described
