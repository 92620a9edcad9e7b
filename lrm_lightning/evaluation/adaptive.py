"""PGD adapted to a defence: it raises the loss of the defence's training, or a loss of the user's.

References:
    Tramer et al. 2020, arXiv:2002.08347, "On adaptive attacks to adversarial example defenses".
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrm_lightning.attacks.forward import predict
from lrm_lightning.attacks.pgd import PairedLoss
from lrm_lightning.errors import UserError
from lrm_lightning.evaluation.metrics import METHOD
from lrm_lightning.losses import OBJECTIVES
from lrm_lightning.runs.directory import CHECKPOINTS
from lrm_lightning.runs.networks import PREFIX, TrainedNetwork, trusted, weights_file
from lrm_lightning.runs.records import printable
from lrm_lightning.runs.weights import read_checkpoint

# The package of the defences. A run's config.yaml names the class, which is imported by its name:
# `evaluation` may not import `methods`, because both are one layer (tests/test_imports.py).
DEFENSES = "lrm_lightning.methods"

Loss = str | PairedLoss


def given_loss(name: str, trust: Sequence[str]) -> Loss:
    """The loss that ``attack_loss=name`` names: a function of the user's, imported, or the name.

    Raises:
        UserError: If there is no such loss, or it is of a package that is not in ``trust``.
    """
    if ":" not in name:
        known = [METHOD, *OBJECTIVES]
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            choose = f"choose one of {', '.join(known)}, or give package.module:function"
            raise UserError(f"attack_loss={name} is unknown{guess}; {choose}")
        return name
    function = trusted(name.replace(":", "."), trust)
    if function is None:
        package = name.partition(":")[0].partition(".")[0]
        raise UserError(
            f"attack_loss={name} is not a function of a package in trust; where you trust its code"
            f" give trust=[{package}]"
        )
    return PairedLoss(name, _checked(name, lambda logits, logits_adv, y: function(logits_adv, y)))


def loss_of(loss: Loss, network: TrainedNetwork, x: Tensor, trust: Sequence[str]) -> Loss:
    """What PGD raises on a network, whose training the loss may be of.

    The network takes ``x``, a few of the images, ``(B, channels, H, W)``.

    Raises:
        UserError: If the network was not trained here, or by a defence that is not in ``trust``.
    """
    if loss != METHOD:
        return loss
    label, settings = network.about.label, dict(network.config.get("method") or {})
    target = str(settings.pop("_target_", ""))
    if not target:
        raise UserError(
            f"attack_loss=method: how {label} was trained is unknown; give"
            " attack_loss=package.module:function"
        )
    kind: Any = trusted(target, [DEFENSES, *trust])
    if kind is None:
        raise UserError(
            f"attack_loss=method: {label} was trained by {printable(target)}, which is not this"
            f" package's; where you trust its code give trust=[{target.partition('.')[0]}]"
        )
    epochs = (network.config.get("trainer") or {}).get("max_epochs") or settings.get("epochs")
    classes = predict(network.module, x).shape[1]
    try:
        defense = kind(network.module, num_classes=classes, **settings).to(x.device)
    except (TypeError, ValueError) as error:
        raise UserError(f"attack_loss=method: {label}: {printable(str(error))}") from error
    defense.epochs, defense.trained = epochs or defense.epochs, True
    _fill(defense, network)
    return PairedLoss(METHOD, _checked(METHOD, defense.loss_of_each))


def _fill(defense: Any, network: TrainedNetwork) -> None:  # noqa: ANN401  (a Defense, not imported here)
    """Load what a defence has learned besides its network, such as IKL's means of the classes."""
    own = [name for name in defense.state_dict() if not name.startswith(PREFIX)]
    if not own:
        return
    path, _ = weights_file(network.folder, network.about.checkpoint)
    if path.parent.name != CHECKPOINTS:
        raise UserError(
            f"attack_loss=method: an export has no {own[0]}, which the loss of"
            f" {network.about.label} needs; give the run itself"
        )
    state = read_checkpoint(path)["state_dict"]
    defense.load_state_dict({name: state[name] for name in own}, strict=False)


def _checked(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, which may be anybody's code: what is wrong with it is one line."""

    def loss(logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
        try:
            found = function(logits, logits_adv, y)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {printable(str(error))}"
            raise UserError(f"attack_loss={name}: {what}") from error
        if not isinstance(found, Tensor) or found.shape != y.shape[:1]:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{type(found)}"
            wanted = f"({len(y)},), one value an image"
            raise UserError(f"attack_loss={name} must return values of shape {wanted}, not {got}")
        if not found.requires_grad:
            raise UserError(f"attack_loss={name} has no gradient with respect to the logits")
        return found

    return loss
