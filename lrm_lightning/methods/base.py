"""What all defences share: the network, the regularisers of logits, and Lightning's hooks."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lrm_lightning.attacks import Attack, PGDAttack
from lrm_lightning.attacks.forward import exact_arithmetic
from lrm_lightning.checks import check_choice, check_integer, check_number
from lrm_lightning.data import Batch, ImageDataModule
from lrm_lightning.data.mixing import MIXINGS
from lrm_lightning.losses import logit_squeezing, smooth_targets, soft_cross_entropy
from lrm_lightning.methods.schedules import step_drops

# Section 5.1 of the paper.
PAPER_OPTIMIZER = partial(SGD, lr=0.1, momentum=0.9, weight_decay=2e-4)


class Defense(L.LightningModule, ABC):
    """A way to train a classifier, to be subclassed: one defence a file.

    A subclass defines :meth:`loss_terms` alone. It trains with any network that
    takes pixels in [0, 1] of shape ``(B, channels, H, W)`` and gives logits ``(B, C)``.

    Args:
        network: The classifier.
        num_classes: C.
        attack: The attack that adversarial defences train against; the others ignore it.
        optimizer: Makes the optimiser from parameter groups: a torch class, its settings filled in.
            Weight decay applies to convolution and linear kernels, never to biases and batch norm.
        scheduler: Makes the schedule from the optimiser; see
            :mod:`~lrm_lightning.methods.schedules`.
        name: Short name in records, tables and dashboards.
        epochs: How long this defence is trained: the default of the trainer's ``max_epochs``, which
            replaces it when training begins.
        smoothing: Label smoothing s in [0, 1 - 1/C] (Eq. 8); 0 is hard labels.
        squeeze_weight: Weight (the paper's beta) of the squared norm of the logits, clean and,
            where a defence has them, adversarial (Eq. 10); 0 switches it off.
        mixing: ``"none"``, ``"mixup"`` or ``"vh_mixup"``; the DataModule does it.
        mixing_alpha: Mixup's Beta(alpha, alpha); VH-mixup draws uniformly and ignores it.
        input_noise: Standard deviation, in pixels of [0, 1], of Gaussian noise that training images
            get before they are clipped to [0, 1] and, where a defence attacks, attacked; 0 switches
            it off.
            Kannan et al. train clean logit pairing and squeezing with it (arXiv:1803.06373); in the
            code of Mosbach et al. (arXiv:1810.12042) it is off, and 0.5 where it is on.

    Raises:
        ValueError: If a value is out of range.
    """

    trained = False  # whether the loss is that of the end of the training, without a Trainer

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int = 10,
        attack: Attack | None = None,
        optimizer: Callable[..., Optimizer] = PAPER_OPTIMIZER,
        scheduler: Callable[..., Any] = step_drops,
        name: str = "",
        epochs: int = 200,
        smoothing: float = 0.0,
        squeeze_weight: float = 0.0,
        mixing: str = "none",
        mixing_alpha: float = 1.0,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, low=2)
        check_integer("epochs", epochs, low=1)
        most = 1 - 1 / num_classes
        check_number("smoothing", smoothing, low=0, high=most, why="1 - 1/num_classes")
        check_number("squeeze_weight", squeeze_weight, low=0)
        check_choice("mixing", mixing, MIXINGS)
        check_number("mixing_alpha", mixing_alpha, above=0)
        check_number("input_noise", input_noise, low=0)
        # Convolutions run faster on images laid out channels-last, on CPUs and on GPUs.
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.num_classes = num_classes
        self.attack = attack or PGDAttack()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.name = name or type(self).__name__
        self.epochs = epochs
        self.smoothing = smoothing
        self.squeeze_weight = squeeze_weight
        self.mixing = mixing
        self.mixing_alpha = mixing_alpha
        self.input_noise = input_noise
        self._accuracies: dict[str, Tensor] = {}

    @abstractmethod
    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the training loss by name, weighted scalars; the loss is their sum.

        Each is logged as ``train/loss/<name>``. The targets of ``batch`` are not smoothed yet.
        """

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The terms of the loss by name, given logits: what an attack adapted to it raises.

        Args:
            outputs: Logits of the clean and then of the attacked images, ``(2 B, C)``, or, where
                the loss needs one kind alone, ``(B, C)`` of that.
            targets: Targets of the loss, ``(B, C)``.

        Raises:
            NotImplementedError: If a subclass has :meth:`loss_terms` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} doesn't define terms(outputs, targets)")

    def loss_of_each(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
        """The defence's loss of each attacked image, ``(B,)``; raises as :meth:`terms`.

        Each image is a batch of its own: what a loss shares in a batch, such as LRM's weight of the
        pairing, is the image's, and clean images are paired with no other.

        Args:
            logits: Of the clean images, ``(B, C)``.
            logits_adv: Of the attacked ones, ``(B, C)``.
            y: Labels ``(B,)``; they are smoothed as in training.
        """
        hard = nn.functional.one_hot(y, self.num_classes).to(logits_adv)
        targets = smooth_targets(hard, self.num_classes, self.smoothing)

        def loss(clean: Tensor, adv: Tensor, target: Tensor) -> Tensor:
            terms = self.terms(torch.stack([clean, adv]), target[None])
            return torch.stack(list(terms.values())).sum()

        return torch.vmap(loss)(logits, logits_adv, targets)

    @property
    def epoch(self) -> int:
        """The epoch of the training, from 0; the last one if it is over, see :attr:`trained`."""
        return self.epochs - 1 if self.trained else self.current_epoch

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, C)`` of pixels ``(B, channels, H, W)`` in [0, 1]."""
        return self.network(x)

    def training_targets(self, batch: Batch) -> Tensor:
        """Targets ``(B, C)`` of the batch after label smoothing (Eq. 8)."""
        return smooth_targets(batch.targets, self.num_classes, self.smoothing)

    def squeezing_terms(self, *logits: Tensor) -> dict[str, Tensor]:
        """Eq. 10's weighted squared norm of all ``logits``; an empty dict if its weight is 0."""
        if not self.squeeze_weight:
            return {}
        squeezed = torch.stack([logit_squeezing(each) for each in logits]).sum()
        return {"squeezing": self.squeeze_weight * squeezed}

    def keep_accuracy(self, kind: str, logits: Tensor, targets: Tensor) -> None:
        """Keep the accuracy of a training batch, to be logged as ``train/acc/<kind>``.

        Of ``targets``, ``(B, C)`` like the logits, the most probable class is the right one.
        """
        correct = logits.detach().argmax(dim=1) == targets.argmax(dim=1)
        self._accuracies[f"train/acc/{kind}"] = correct.float().mean()

    def noisy(self, batch: Batch) -> Batch:
        """The batch with :attr:`input_noise`, of which each process draws its rows."""
        if not self.input_noise:
            return batch
        source = batch.draws.generator("input_noise", batch.x.device)
        shape = (batch.draws.size, *batch.x.shape[1:])
        noise = torch.randn(shape, generator=source, device=batch.x.device)
        x = batch.x.add(batch.draws.rows(noise), alpha=self.input_noise)
        return batch._replace(x=x.clamp_(0, 1))

    def mean_over_ranks(self, *values: Tensor) -> Tensor:
        """Mean of each of ``values``, all of one shape, over all processes, without a gradient."""
        means = torch.stack([value.detach() for value in values])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(means)
            means /= dist.get_world_size()
        return means

    def setup(self, stage: str) -> None:
        """Take the length of the training; tell the DataModule how this defence mixes images."""
        if stage == "fit" and self.trainer.max_epochs:
            self.epochs = self.trainer.max_epochs
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, ImageDataModule):
            datamodule.augmentation = datamodule.augmentation._replace(
                mixing=self.mixing, mixing_alpha=self.mixing_alpha
            )
        elif stage == "fit" and self.mixing != "none":
            needed = "an lrm_lightning.data.ImageDataModule as the trainer's datamodule"
            raise ValueError(f"mixing={self.mixing!r} needs {needed}")

    def on_train_start(self) -> None:
        """Lower ``log_every_n_steps`` to the batches of an epoch, so that each epoch is logged."""
        batches = int(self.trainer.num_training_batches)
        trainer: Any = self.trainer  # its logger connector adds the attribute
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, batches)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self.loss_terms(self.noisy(batch))
        loss = torch.stack(list(terms.values())).sum()
        logged = {f"train/loss/{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, batch_size=len(batch.x), sync_dist=False)
        self.log("train/loss", loss.detach(), batch_size=len(batch.x), prog_bar=True)
        self.log_dict(self._accuracies, batch_size=len(batch.x))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_clean_loss("val/loss", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        with exact_arithmetic():  # whatever the Trainer trained in, as for the accuracies
            self._log_clean_loss("test/loss", batch)

    def _log_clean_loss(self, key: str, batch: Batch) -> None:
        """Log the cross-entropy; accuracies are the RobustAccuracy callback's."""
        loss = soft_cross_entropy(self(batch.x), batch.targets)
        self.log(key, loss, batch_size=len(batch.x), on_epoch=True, sync_dist=True)

    def make_optimizer(self) -> Optimizer:
        """The optimiser, whose weight decay holds for kernels (two axes or more) alone."""
        kernels = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
        return self.optimizer([group for group in groups if group["params"]])

    def make_scheduler(self, optimizer: Optimizer, *, epochs: int, steps_per_epoch: int) -> Any:  # noqa: ANN401
        """The schedule, which gets ``epochs`` and ``steps_per_epoch`` if its signature has both."""
        if not self._steps_every_batch:
            return self.scheduler(optimizer)
        return self.scheduler(optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def configure_optimizers(self) -> Any:  # noqa: ANN401  (Lightning's own union of six types)
        optimizer, by_batch = self.make_optimizer(), self._steps_every_batch
        epochs, steps = self.trainer.max_epochs or 1, self._steps_per_epoch() if by_batch else 1
        scheduler = self.make_scheduler(optimizer, epochs=epochs, steps_per_epoch=steps)
        interval = "step" if by_batch else "epoch"
        settings = {"scheduler": scheduler, "interval": interval, "name": "lr"}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    @property
    def _steps_every_batch(self) -> bool:
        function = getattr(self.scheduler, "func", self.scheduler)  # of a partial
        asked = inspect.signature(function).parameters.keys()
        return {"epochs", "steps_per_epoch"} <= asked

    def _steps_per_epoch(self) -> int:
        # Not trainer.estimated_stepping_batches where it can be helped: asking for it here makes
        # Lightning drop the loader's place in the epoch on resume (lightning issue 20550).
        datamodule = getattr(self.trainer, "datamodule", None)
        if not isinstance(datamodule, ImageDataModule):
            epochs = self.trainer.max_epochs or 1
            return max(1, int(self.trainer.estimated_stepping_batches) // epochs)
        steps = datamodule.steps_per_epoch
        limit = self.trainer.limit_train_batches
        batches = int(steps * limit) if isinstance(limit, float) else min(steps, limit or 1)
        return max(1, math.ceil(batches / self.trainer.accumulate_grad_batches))
