"""The paper's white-box evaluation: Table 1, the curve of section 5.3, logits of Fig. 1 and 2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lrm_lightning.checks import check_integer
from lrm_lightning.diagnostics import LogitStatistics
from lrm_lightning.evaluation.bench import Bench, Outcome
from lrm_lightning.evaluation.cache import Piece
from lrm_lightning.evaluation.metrics import ADAPTIVE, pgd_steps


@dataclass(frozen=True, kw_only=True)
class PaperSuite:
    """Natural, FGSM, PGD-k and the accuracy after every step, all from one trajectory an image.

    PGD-k is the last iterate of k steps from one random start, as the paper reports it, of every
    image, the misclassified ones included; so is ``pgd_adaptive``, with the most steps of
    :attr:`table`, on :attr:`Bench.adaptive`.

    The settings are explained in ``conf/suite/paper.yaml``.

    References:
        Summers & Dinneen, sections 5.1 to 5.3.
    """

    name: ClassVar[str] = "paper"
    steps: int = 200
    table: Sequence[int] = (5, 10, 20, 200)
    logits_at: int = 20
    bins: int = 100

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, low=1)
        check_integer("bins", self.bins, low=2)
        if isinstance(self.table, (int, str)) or not self.table:
            needed = "must be a list of step counts, e.g. [5, 10, 20]"
            raise ValueError(f"table={self.table!r} {needed}")
        for name, step in [("logits_at", self.logits_at), *(("table", k) for k in self.table)]:
            check_integer(name, step, low=1)
            if step > self.steps:
                raise ValueError(f"{name}={step} must be at most steps={self.steps}")

    @property
    def step_counts(self) -> Sequence[int]:
        """Of its searches."""
        return self.table

    def run(self, network: nn.Module, bench: Bench) -> Outcome:
        n, table = len(bench.images.y), sorted(set(self.table))
        details: dict[str, Any] = {"settings": {"logits_at": self.logits_at}}
        if bench.adaptive is not None:
            adaptive = replace(bench.threat, steps=table[-1], loss=bench.adaptive)
            bench = replace(bench, extra_attacks={ADAPTIVE: adaptive, **bench.extra_attacks})
            details["settings"][ADAPTIVE] = adaptive.as_dict()
        results = bench.compute(
            "trajectory", np.arange(n), partial(self._trajectory, network, bench)
        )
        correct = {
            "clean": results["clean"].argmax(axis=1) == bench.images.y.cpu().numpy(),
            "fgsm": results["fgsm"],
            **{f"pgd{step}": results["pgd"][:, step] for step in table},
            **bench.left_by_extras(network, np.ones(n, bool)),
        }
        logits = {kind: results[kind] for kind in ("clean", "adversarial")}
        steps, accuracy = list(range(self.steps + 1)), results["pgd"].mean(axis=0).tolist()
        details |= {
            "attack": bench.threat.as_dict() | {"steps": table},
            "curve": {"steps": steps, "accuracy": accuracy},
            "logits": logit_distributions(logits, bins=self.bins),
        }
        kept = None
        if bench.keep_images:
            name = min(correct.keys() - {"clean"}, key=lambda each: (correct[each].mean(), each))
            find = partial(self._images, network, bench, name)
            kept = name, bench.compute(f"images {name}", np.arange(n), find)["x_adv"]
        return Outcome(correct, details, self._gallery(network, bench), kept)

    def _trajectory(
        self, network: nn.Module, bench: Bench, places: np.ndarray, x: Tensor, y: Tensor
    ) -> Piece:
        start = bench.starts(bench.threat, places, "paper")
        path = bench.threat.trajectory(
            network, x, y, range(self.steps + 1), start=start, keep_images=False
        )
        verdicts = [iterate.logits.argmax(dim=1) == y for iterate in path.iterates.values()]
        return {
            "clean": path.logits.cpu().numpy(),
            "adversarial": path.iterates[self.logits_at].logits.cpu().numpy(),
            "fgsm": (path.fgsm.logits.argmax(dim=1) == y).cpu().numpy(),
            "pgd": torch.stack(verdicts, dim=1).cpu().numpy(),
        }

    def _images(
        self,
        network: nn.Module,
        bench: Bench,
        name: str,
        places: np.ndarray,
        x: Tensor,
        y: Tensor,
    ) -> Piece:
        """The images of the attack that is called so, made again from the same starts."""
        if name in bench.extra_attacks:
            return {"x_adv": bench.extra_attack(name, network, places, x, y).cpu().numpy()}
        steps = pgd_steps(name)
        start = bench.starts(bench.threat, places, "paper")
        path = bench.threat.trajectory(network, x, y, [steps] if steps else [], start=start)
        x_adv = (path.iterates[steps] if steps else path.fgsm).x_adv
        assert x_adv is not None
        return {"x_adv": x_adv.cpu().numpy()}

    def _gallery(self, network: nn.Module, bench: Bench) -> dict[str, np.ndarray]:
        """A few images, attacked again with the same starts, this time to be looked at."""
        shown = bench.images.shown
        x, y = bench.images.rows(shown)
        start = bench.starts(bench.threat, shown, "paper")
        path = bench.threat.trajectory(network, x, y, [self.logits_at], start=start)
        last = path.iterates[self.logits_at]
        assert last.x_adv is not None
        return {
            "gallery_index": bench.images.index[shown],
            "gallery_y": y.cpu().numpy(),
            "gallery_clean": path.logits.argmax(dim=1).cpu().numpy(),
            "gallery_adversarial": last.logits.argmax(dim=1).cpu().numpy(),
            "gallery_x": x.mul(255).round().to(torch.uint8).cpu().numpy(),
            "gallery_x_adv": last.x_adv.cpu().numpy(),
        }


def logit_distributions(logits: Mapping[str, np.ndarray], *, bins: int) -> dict[str, Any]:
    """Each kind's logits, shape ``(n, C)``, as a histogram over common bins, with their size.

    They are the fields of :class:`~lrm_lightning.runs.records.Histogram`; Summers & Dinneen show
    them in Fig. 1 left and Fig. 2 right.
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
