"""The callback that attacks: robust accuracy, logit statistics and pairing diagnostics."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lrm_lightning.attacks import Attack, PGDAttack, attack_mode
from lrm_lightning.attacks.forward import exact_arithmetic
from lrm_lightning.checks import check_integer
from lrm_lightning.data import Batch
from lrm_lightning.data.batch import Draws
from lrm_lightning.data.loader import laid_out
from lrm_lightning.diagnostics import LogitStatistics, PairingDiagnostics
from lrm_lightning.errors import NotFiniteError
from lrm_lightning.methods import Defense, PGDTraining

SHOWN = 8
# Ours, or images (B, channels, H, W), labels (B,) and whatever else a foreign loader gives.
AnyBatch = Batch | Sequence[Tensor]


class Examples(NamedTuple):
    """A few images and the strongest attack on them, on the CPU."""

    index: Tensor
    y: Tensor
    x: Tensor
    x_adv: Tensor
    logits: Tensor
    logits_adv: Tensor


def collapse(before: Mapping[str, float], now: Mapping[str, float], steps: int) -> str | None:
    """What to say if adversarial training has made a network robust against one step alone.

    That is how training on single-step attacks collapses, within an epoch: accuracy under FGSM
    rises, that under PGD falls to near 0. It is noticed when PGD's is less than a quarter of
    FGSM's, and by more than 10 points less, unless that was so in the validation before. The
    thresholds are ours.

    Args:
        before: The metrics logged under ``val/`` by the validation before; empty if there is none.
        now: Those of this one.
        steps: Which PGD to look at.

    Returns:
        One line, or ``None``.

    References:
        Wong et al. 2020, arXiv:2001.03994, section 5.4: catastrophic overfitting.
    """
    keys = ("val/acc/fgsm", f"val/acc/pgd{steps}")

    def collapsed(found: Mapping[str, float]) -> bool:
        fgsm, pgd = (found.get(key, 0.0) for key in keys)
        return pgd < fgsm / 4 and pgd < fgsm - 0.1

    if collapsed(before) or not collapsed(now):
        return None
    fgsm, pgd = (f"{100 * now[key]:.1f}%" for key in keys)
    return (
        f"accuracy is {fgsm} under FGSM, but {pgd} under PGD-{steps}: if this lasts, training has"
        " collapsed; take attack=n_fgsm, more attack.steps or a smaller attack.eps"
    )


class Correctness(Metric):
    """Which images each attack left correctly classified, gathered exactly over processes.

    Args:
        names: The attacks, in the order of the columns given to :meth:`update`.
    """

    full_state_update = False
    index: list[Tensor]
    verdicts: list[Tensor]

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        for state in ("index", "verdicts"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        # A rank that gets no image still has to bring states of the right shape to the gathering.
        self.update(torch.zeros(0, dtype=torch.int64), torch.zeros(0, len(self.names)))

    def update(self, index: Tensor, verdicts: Tensor) -> None:
        """Add images: their positions, int64 ``(B,)``, and verdicts, bool ``(B, attacks)``."""
        self.index.append(index)
        self.verdicts.append(verdicts.to(torch.uint8))

    def compute(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Positions ``(n,)`` in rising order, and attack name to bool ``(n,)``.

        Raises:
            RuntimeError: If an image was counted twice, which would make every accuracy wrong.
        """
        index, order = dim_zero_cat(self.index).cpu().sort()
        verdicts = dim_zero_cat(self.verdicts).cpu().bool()[order]
        if len(index.unique()) != len(index):
            raise RuntimeError("an image was evaluated twice; accuracies would be wrong")
        columns = verdicts.T.contiguous().numpy()
        return index.numpy(), dict(zip(self.names, columns, strict=True))


class RobustAccuracy(Callback):
    """Logs accuracy on clean, FGSM and PGD-k images, and statistics of the logits, every epoch.

    It works in ``fit``, ``validate`` and ``test``, in this project's Trainer or a foreign one, of
    any LightningModule whose ``forward`` takes pixels in [0, 1] and returns logits, with batches
    that begin with images and labels. One PGD trajectory an image serves all step counts and FGSM.
    Logged under ``val/`` or ``test/``:
    ``acc/clean``, ``acc/fgsm``, ``acc/pgd<k>``, and ``acc/<name>`` of a training attack that is no
    PGD, whose images are projected into its threat model; ``logits/clean/...`` and
    ``logits/adv/...``; ``pairing/...`` (Summers & Dinneen, Eq. 4-7).
    The largest k makes the adversarial logits.

    Random starts depend on the image's place and the seed alone, so every epoch attacks from the
    same starts; of a foreign loader it is the place in what the loader gives alone, whose order
    must not change. Nothing of the model or of torch's global random state is changed. ``test``
    computes in full float32, or float64, whatever the Trainer's precision. When adversarial
    training collapses, it says so (:func:`collapse`).

    Args:
        attack: The training attack, whose threat model PGD takes. How it searches is used only if
            it is no :class:`~lrm_lightning.attacks.PGDAttack`: then its own accuracy is logged too.
        step_size: Length of a PGD step; ``None`` is the paper's for the radius, 0.26 eps.
        steps: PGD step counts in ``fit`` and ``validate``.
        every_n_epochs: Attack at every n-th epoch of ``fit``, and at the last.
        n_images: First images of the validation split to attack; ``None`` is all.
        test_steps: PGD step counts in ``test``.
        test_n_images: First images of the test split to attack; ``None`` is all.

    Attributes:
        attack: PGD as it attacks here.
        correct: After ``test``: attack name to bool array ``(n,)``, a verdict an image.
        index: After ``test``: position of those images in the split, int64 ``(n,)``.
        logits: Of the evaluation that runs, or ran last, on this rank: ``"clean"`` and ``"adv"``,
            ``(n, classes)`` each.
        examples: Of that evaluation, up to eight of its first images and what became of them.
        active: Whether the evaluation that runs, or ran last, was attacked.
        val_metrics: What was logged last under ``val/``; kept in checkpoints. A run that tests its
            best weights has what was logged of these.

    Raises:
        ValueError: If a count is out of range.
        NotFiniteError: While it runs, if the logits or what they give are not finite.
    """

    def __init__(
        self,
        attack: Attack,
        *,
        step_size: float | None = None,
        steps: Sequence[int] = (10,),
        every_n_epochs: int = 1,
        n_images: int | None = 1000,
        test_steps: Sequence[int] = (5, 10, 20),
        test_n_images: int | None = None,
    ) -> None:
        check_integer("every_n_epochs", every_n_epochs, low=1)
        for name, counts in (("steps", steps), ("test_steps", test_steps)):
            if isinstance(counts, (int, str)) or not counts:
                raise ValueError(
                    f"{name}={counts!r} must be a list of step counts, e.g. [5, 10, 20]"
                )
            for count in counts:
                check_integer(name, count, low=1)
        for name, limit in (("n_images", n_images), ("test_n_images", test_n_images)):
            if limit is not None:
                check_integer(name, limit, low=1)
        # The network is tested as it will be used, however batch norm was attacked in training.
        size = attack.threat.step_size if step_size is None else step_size
        engine = getattr(attack, "engine", "auto")
        self.attack = PGDAttack(norm=attack.norm, eps=attack.eps, step_size=size, engine=engine)
        self._other = None if isinstance(attack, PGDAttack) else attack
        if self._other is not None and re.fullmatch(r"clean|fgsm|pgd\d+", self._other.name):
            raise ValueError(
                f"the training attack's accuracy would be called {self._other.name}, which is"
                " another's name here; rename its class"
            )
        self.every_n_epochs = every_n_epochs
        self._settings = {
            "val": (sorted(set(steps)), n_images),
            "test": (sorted(set(test_steps)), test_n_images),
        }
        self.correct: dict[str, np.ndarray] = {}
        self.index: np.ndarray = np.zeros(0, np.int64)
        self.logits: dict[str, Tensor] = {}
        self.examples: Examples | None = None
        self.active = False
        self.val_metrics: dict[str, float] = {}

    # ------------------------------------------------------------------ Lightning's hooks

    def state_dict(self) -> dict[str, Any]:
        return {"val_metrics": self.val_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.val_metrics = state_dict["val_metrics"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.active = not trainer.sanity_checking and self._due(trainer)
        if self.active:
            self._begin("val", pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.active = True
        self._begin("test", pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: AnyBatch,
        *_: int,
    ) -> None:
        if self.active:
            self._attack(pl_module, self._placed(trainer, batch))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: AnyBatch,
        *_: int,
    ) -> None:
        with exact_arithmetic():
            self._attack(pl_module, self._placed(trainer, batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.active:
            self._log("val", pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.index, self.correct = self._log("test", pl_module)

    # ------------------------------------------------------------------ one evaluation

    def _due(self, trainer: Trainer) -> bool:
        if trainer.state.fn != "fit":
            return True
        epoch = trainer.current_epoch + 1
        return epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs

    def _begin(self, split: str, pl_module: LightningModule) -> None:
        self._steps, self._limit = self._settings[split]
        names = ["clean", "fgsm", *(f"pgd{count}" for count in self._steps)]
        if self._other is not None:
            names.append(self._other.name)
        # Apple's GPUs have no float64, in which the metrics add up.
        self._summed_on = "cpu" if pl_module.device.type == "mps" else pl_module.device
        self._correctness = Correctness(names).to(self._summed_on)
        self._statistics = {
            kind: LogitStatistics().to(self._summed_on) for kind in ("clean", "adv")
        }
        self._pairing = PairingDiagnostics().to(self._summed_on)
        self._logits: dict[str, list[Tensor]] = {"clean": [], "adv": []}
        self.examples = None
        self._seen = 0  # images of a foreign loader

    def _placed(self, trainer: Trainer, batch: AnyBatch) -> Batch:
        """The batch; of a foreign loader with the places of its images."""
        if isinstance(batch, Batch):
            return batch
        x, y, *_ = batch
        size, rank, ranks = len(x), trainer.global_rank, trainer.world_size
        # As torch's DistributedSampler deals images out: one to each process in turn.
        index = (self._seen + torch.arange(size, device=x.device)) * ranks + rank
        draws = Draws(0, 0, self._seen, size * ranks, size * rank, size * (rank + 1))
        self._seen += size
        return Batch(x, targets=y, y=y, index=index, draws=draws)

    def _attack(self, pl_module: LightningModule, batch: Batch) -> None:
        network = pl_module.network if isinstance(pl_module, Defense) else pl_module
        assert isinstance(network, nn.Module)
        wanted = batch.index < (math.inf if self._limit is None else self._limit)
        if not wanted.any():
            return
        x, y, index = laid_out(batch.x[wanted]), batch.y[wanted], batch.index[wanted]

        def start(attack: Attack, purpose: str) -> Tensor | None:
            # Drawn for the global batch, of which each process takes the rows of its own images.
            generator = batch.draws.generator(purpose, x.device)
            shape = (batch.draws.size, *x.shape[1:])
            noise = attack.draw_noise(shape, generator=generator, device=x.device)
            return None if noise is None else x + batch.draws.rows(noise, dim=1)[:, wanted]

        path = self.attack.trajectory(
            network,
            x,
            y,
            self._steps,
            start=start(self.attack, "robust_accuracy"),
            keep_images=self.examples is None,
        )
        last = path.iterates[self._steps[-1]]
        logits = [path.logits, path.fgsm.logits]
        logits += [path.iterates[count].logits for count in self._steps]
        if self._other is not None:
            x_adv = self._other(network, x, y, start=start(self._other, self._other.name))
            # Some training attacks leave the threat model, N-FGSM for one.
            x_adv = self._other.threat.project(x_adv, x)
            with attack_mode(network), torch.no_grad():
                logits.append(network(x_adv))
        verdicts = torch.stack([each.argmax(dim=1) == y for each in logits], dim=1)
        clean, adv = path.logits.to(self._summed_on), last.logits.to(self._summed_on)
        self._correctness.update(index.to(self._summed_on), verdicts.to(self._summed_on))
        self._statistics["clean"].update(clean)
        self._statistics["adv"].update(adv)
        self._pairing.update(clean, adv, y.to(self._summed_on))
        self._logits["clean"].append(path.logits)
        self._logits["adv"].append(last.logits)
        if self.examples is None:
            assert last.x_adv is not None
            shown = (index, y, x, last.x_adv, path.logits, last.logits)
            self.examples = Examples(*(each[:SHOWN].detach().cpu() for each in shown))

    def _log(
        self, split: str, pl_module: LightningModule
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        index, correct = self._correctness.compute()
        self.logits = {kind: torch.cat(each).cpu() for kind, each in self._logits.items() if each}
        metrics = {f"{split}/acc/{name}": float(each.mean()) for name, each in correct.items()}
        for kind, statistics in self._statistics.items():
            for name, value in statistics.compute().items():
                metrics[f"{split}/logits/{kind}/{name}"] = float(value)
        for name, value in self._pairing.compute().items():
            metrics[f"{split}/pairing/{name}"] = float(value)
        if not all(map(math.isfinite, metrics.values())):
            raise NotFiniteError(f"the logits of the {split} images are too large or NaN")
        if split == "val":
            if isinstance(pl_module, PGDTraining):
                self._say(collapse(self.val_metrics, metrics, self._steps[-1]))
            self.val_metrics = metrics
        # Synchronised by the metrics above: every rank logs the same numbers.
        pl_module.log_dict(metrics, sync_dist=False, rank_zero_only=False)
        return index, correct

    @rank_zero_only
    def _say(self, message: str | None) -> None:
        if message:
            print(message, flush=True)  # noqa: T201  (a person reads it)
