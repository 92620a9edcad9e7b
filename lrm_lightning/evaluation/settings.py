"""What evaluate and transfer are told on the command line: data, threat model, device."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from lrm_lightning.attacks import PGDAttack, ThreatModel
from lrm_lightning.checks import check_choice
from lrm_lightning.data import ImageDataModule
from lrm_lightning.errors import UserError
from lrm_lightning.runs.identity import conf_dir

# A run directory may come from anybody, so it names data of ours or they are refused.
TRUSTED = "lrm_lightning.data."
# Where the data are; what else a DataModule takes concerns training.
WHERE = ("root", "require_official", "download")

Built = TypeVar("Built")


def checked(group: str, build: Callable[[], Built]) -> Built:
    """``build()``; a mistake in its arguments becomes a :class:`UserError` that names the group."""
    try:
        return build()
    except (ValueError, TypeError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{group}{message}") from error


def threat_model(trained: Mapping[str, Any], given: Mapping[str, Any]) -> PGDAttack:
    """The threat model that a network is evaluated under.

    Args:
        trained: The configuration of its training; may be empty.
        given: ``norm``, ``eps``, ``step_size``, ``engine``; ``None`` is as trained or, for a network
            not trained here, the paper's. The step is the paper's for the radius: 0.26 eps.

    Returns:
        PGD with these and the paper's random start.

    Raises:
        UserError: If a value is out of range.
    """
    attack = trained.get("attack") or {}
    norm = given.get("norm") or attack.get("norm", PGDAttack.norm)
    eps = attack.get("eps", PGDAttack.eps) if given.get("eps") is None else given["eps"]
    step_size = given.get("step_size")

    def build() -> PGDAttack:
        size = ThreatModel(norm, eps).step_size if step_size is None else step_size
        return PGDAttack(norm=norm, eps=eps, step_size=size, engine=given.get("engine", "auto"))

    return checked("attack.", build)


def data_settings(trained: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Which data, and where: as the network was trained unless told otherwise.

    Args:
        trained: The configuration of its training; may be empty.
        given: ``name``, ``root``, ``require_official``; ``None`` is as trained, or CIFAR-10.

    Returns:
        ``_target_`` and what of ``root``, ``require_official`` and ``download`` it takes.

    Raises:
        UserError: If there is no data of that name.
    """
    data = dict(trained.get("data") or {})
    name = str(given.get("name") or data.get("name", "cifar10"))
    shipped = _shipped(name)
    if name != data.get("name"):
        data = shipped
    if not data:
        known = ", ".join(sorted(each.stem for each in (conf_dir() / "data").glob("*.yaml")))
        raise UserError(f"data.name={name} is unknown; choose one of: {known}")
    settings = shipped | data  # an export keeps no paths
    told = {key: value for key, value in given.items() if value is not None}
    return {key: (settings | told)[key] for key in ("_target_", *WHERE) if key in settings}


def load_data(settings: Mapping[str, Any]) -> ImageDataModule:
    """The DataModule of :func:`data_settings`, its data read.

    Raises:
        UserError: If it is not this package's, or its data can't be read.
    """
    target = str(settings["_target_"])
    try:
        found = get_object(target) if target.startswith(TRUSTED) else None
    except (ImportError, ValueError):
        found = None
    if not (
        isinstance(found, type)
        and found.__module__.startswith(TRUSTED)
        and issubclass(found, ImageDataModule)
    ):
        raise UserError(f"data {target} are not this package's; choose others with data.name=...")
    kwargs = {key: value for key, value in settings.items() if key != "_target_"}
    datamodule: ImageDataModule = checked("data.", lambda: found(**kwargs))
    datamodule.setup()
    return datamodule


def choose_device(name: str) -> torch.device:
    """``auto`` is a GPU if there is one.

    Raises:
        UserError: If there is none, or ``name`` is unknown.
    """
    checked("", lambda: check_choice("device", name, ("auto", "cpu", "cuda")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old
        available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device=cuda: torch finds no GPU here; use device=cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _shipped(name: str) -> dict[str, Any]:
    """The settings in ``conf/data``, or nothing."""
    path = conf_dir() / "data" / f"{Path(name).name}.yaml"
    found = OmegaConf.to_container(OmegaConf.load(path), resolve=True) if path.is_file() else {}
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}
