"""What ``evaluate`` and ``transfer`` share: networks, data, threat model, making a record."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from lrm_lightning.attacks import PGDAttack, ThreatModel
from lrm_lightning.attacks.forward import exact_arithmetic, predict
from lrm_lightning.checks import check_choice, check_flag, check_integer
from lrm_lightning.data import ImageDataModule
from lrm_lightning.errors import UserError, text_of
from lrm_lightning.evaluation import foreign
from lrm_lightning.evaluation.bench import Bench, Images, at, pick
from lrm_lightning.evaluation.cache import Cache, Progress
from lrm_lightning.evaluation.images import X_ADV, write_images
from lrm_lightning.evaluation.metrics import METHOD, NORMS
from lrm_lightning.runs import provenance, records
from lrm_lightning.runs.directory import finished_run, outdated
from lrm_lightning.runs.files import file_sha256, locked, override, write_arrays
from lrm_lightning.runs.identity import conf_dir, hashed, numeric
from lrm_lightning.runs.networks import TrainedNetwork, load_runs, trusted
from lrm_lightning.runs.records import EvaluationRecord, TransferRecord, printable

# Where the data are; what else a DataModule takes concerns training.
WHERE = ("root", "require_official", "download")

R = TypeVar("R", EvaluationRecord, TransferRecord)
# What an evaluation found: the record's own fields, and arrays for the file of verdicts; attacked
# images among them, X_ADV, have a file of their own.
Found = tuple[dict[str, Any], dict[str, np.ndarray]]


@contextmanager
def as_user_error(
    prefix: str = "", kinds: tuple[type[Exception], ...] = (ValueError, TypeError)
) -> Iterator[None]:
    """Exceptions of these kinds, and a full GPU, become a :class:`UserError` behind ``prefix``."""
    try:
        yield
    except UserError:
        raise
    except torch.OutOfMemoryError as error:
        raise UserError("out of GPU memory: lower batch_size") from error
    except kinds as error:
        raise UserError(f"{prefix}{text_of(error)[:300]}") from error


class Session:
    """One command's configuration, and what is made of it; all that a user can mend is one line.

    Args:
        given: The resolved configuration.
        overrides: What the user gave of it on the command line.
    """

    def __init__(self, given: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
        self._overrides, self.given = overrides, (given := numeric(given))
        with as_user_error():
            check_flag("rerun", given["rerun"])
            check_integer("seed", given["seed"], low=0)
            check_integer("batch_size", given["batch_size"], low=1)
            check_integer("shares", given["shares"], low=1)
            check_integer("share", given["share"], low=1)
            if given["share"] > given["shares"]:
                raise ValueError(
                    f"share={given['share']} must be from 1 to shares={given['shares']}"
                )
        self.device = choose_device(given["device"])
        self._loaded: dict[str, ImageDataModule] = {}
        self.index: np.ndarray | None = None  # the test images that are meant, instead of a subset

    def networks(self, key: str, checkpoint: str | None = None) -> list[TrainedNetwork]:
        """The runs and exports that the setting ``key`` names."""
        return load_runs(self.given[key], checkpoint, self.given["trust"], key=key)

    def foreign(self) -> list[TrainedNetwork]:
        """The network from elsewhere, if one is given."""
        if self.given["network"] is None:
            for key, default in foreign.SETTINGS.items():
                if self.given[key] != default:
                    wanted = "network=package.module:function, which is not given"
                    raise UserError(f"{key} is of {wanted}")
            return []
        settings = {key: self.given[key] for key in (*foreign.SETTINGS, "out")}
        return [foreign.load_foreign(self.given["network"], **settings)]

    def overrides(self, **networks: Sequence[TrainedNetwork]) -> list[str]:
        """The command line's overrides, with these runs under their keys instead of patterns."""
        if not self._overrides:
            return []
        known = {
            key: override(key, [each.about.run_dir for each in found if each.about.run_dir])
            for key, found in networks.items()
            if found
        }
        replaced = (*networks, "rerun", "share", "shares")
        kept = [each for each in self._overrides if each.partition("=")[0] not in replaced]
        return [*known.values(), *kept]

    def threat(self, networks: Sequence[TrainedNetwork]) -> PGDAttack:
        """PGD of the threat model: as the networks were trained unless told otherwise."""
        threats = {threat_model(each.config, self.given["attack"]) for each in _trained(networks)}
        if len(threats) > 1:
            choose = "choose one with attack.norm=... and attack.eps=..."
            raise UserError(f"the runs were trained against different attacks; {choose}")
        return threats.pop()

    def data(self, networks: Sequence[TrainedNetwork]) -> tuple[ImageDataModule, Images]:
        """The networks' data and the images that are attacked; every network is tried on two."""
        told, trust = self.given["data"], self.given["trust"]
        settings, *others = (data_settings(each.config, told, trust) for each in _trained(networks))
        if any(_which(each) != _which(settings) for each in others):
            choose = "choose one with data.name=..."
            raise UserError(f"the runs were trained on different data; {choose}")
        data = self._loaded.get(str(settings)) or load_data(settings)
        self._loaded[str(settings)] = data
        subset = {key: self.given[key] for key in ("n_images", "seed")}
        with as_user_error():
            split = data.test_dataloader().split
            if self.index is None:
                images = pick(split, **subset, device=self.device)
            else:
                images = at(split, self.index, device=self.device)
        for each in networks:  # its forward is anybody's code
            mend = "" if each.about.run_dir else foreign.PARTS
            with exact_arithmetic(), as_user_error(f"{each.about.label}: ", (Exception,)):
                network, x = each.module.to(self.device), images.x[:2]
                predict(network, x, classes=data.num_classes, mend=mend)
        return data, images

    def _code(self, networks: Sequence[TrainedNetwork]) -> dict[str, str]:
        """SHA-256 of the modules of the user's own that pieces depend on: their code may change."""
        named: list[Any] = [type(part) for each in networks for part in each.module.modules()]
        foreign_too = any(not each.about.run_dir for each in networks)
        for key in ("surrogate", "attack_loss", *(["network"] if foreign_too else [])):
            module, colon, _ = str(self.given.get(key)).partition(":")
            named += [sys.modules[module]] if colon else []
        if self.given.get("attack_loss") == METHOD:
            methods = (each.config.get("method") or {} for each in networks)
            named += [trusted(str(each.get("_target_")), self.given["trust"]) for each in methods]
        return provenance.sources(named, package=False)

    def record(
        self,
        path: Path,
        kind: type[R],
        networks: Sequence[TrainedNetwork],
        threat: PGDAttack,
        title: str,
        pieces: Mapping[str, Any],
        more: Mapping[str, Any],
        make: Callable[[Bench], Found],
    ) -> R:
        """The record of this very evaluation: what is there already, else made.

        It lies beside ``path``, with a hash of its settings in its name, so that an evaluation with
        other settings is another file; ``path`` itself is read too, for version 0.1 wrote there.
        Verdicts lie beside the record, and the cache until it is written. Besides images and
        settings, ``pieces`` determine each piece of the evaluation and ``more`` the whole, as JSON.
        """
        data, images = self.data(networks)
        common = {key: self.given[key] for key in ("seed", "batch_size")}
        common |= {"schema": records.SCHEMA, "data": data.fingerprint, "n": len(images.y)}
        code = self._code(networks)
        common |= {"code": code} if code else {}
        share = self.given["share"], self.given["shares"]
        cache = Cache(path.with_suffix(".progress"), {**common, **pieces}, share)
        title += f", share {share[0]} of {share[1]}" * (share[1] > 1)
        evaluation_id = hashed({**common, **pieces, **more})[:8]
        old, path = path, path.with_name(f"{path.stem}-{evaluation_id}.json")

        def finished() -> R | None:
            if self.given["rerun"]:
                return None
            return _finished(path, kind, evaluation_id) or _finished(old, kind, evaluation_id)

        record = finished()
        if record is not None:
            print(f"already evaluated (rerun=true does it again): {path}")  # noqa: T201
            if not cache.begun:
                return record
        with cache.shared():
            record = record or finished()  # another process may have ended meanwhile
            if record is None:
                seed, size = common["seed"], common["batch_size"]
                with exact_arithmetic(), Progress(title, cache) as progress:
                    fields, arrays = make(Bench(images, threat, seed, size, cache, progress))
                fields |= {"evaluation_id": evaluation_id, "engine": threat.engine, "split": "test"}
                fields.setdefault("subset", {key: self.given[key] for key in ("seed", "n_images")})
                fields |= {"data": data.provenance(), "n": len(images.y)}
                fields |= {"code": code} if code else {}
                fields |= {"wall_s": round(cache.wall_s, 1), **provenance.stamp(self.device)}
                written, x_adv = [path.with_suffix(".npz")], arrays.pop(X_ADV, None)
                with locked(path.parent):
                    record = finished()  # by another process that shares it
                    if record is None:
                        write_arrays(written[0], {"index": images.index} | arrays)
                        if x_adv is not None:
                            whole = len(images.y) == fields["data"]["n_test"]
                            written += write_images(path, images, x_adv, whole=whole)
                        files = {each.name: file_sha256(each) for each in written}
                        record = kind(**fields, files=files)
                        # Last: its presence says that the evaluation is finished.
                        records.write_record(path, record)
        return record


def threat_model(trained: Mapping[str, Any], given: Mapping[str, Any]) -> PGDAttack:
    """PGD, with the paper's random start, of the threat model that a network is evaluated under.

    What is not ``given`` is as in the configuration of its training or, for a network not trained
    here, the paper's. The step is the paper's for the radius, 0.26 eps.

    Raises:
        UserError: If a value is wrong, or another norm is given without its radius.
    """
    known = {"norm": PGDAttack.norm, "eps": PGDAttack.eps} | (numeric(trained).get("attack") or {})
    told = {key: value for key, value in given.items() if value is not None}
    norm, eps = (told.get(key, known[key]) for key in ("norm", "eps"))
    if norm != known["norm"] and "eps" not in told and norm in [*NORMS]:
        otherwise = printable(f"eps={known['eps']} is a radius of norm={known['norm']}")
        raise UserError(f"attack.norm={norm} needs attack.eps=...: {otherwise}")
    with as_user_error("attack."):
        step_size = ThreatModel(norm, eps).step_size
        return PGDAttack(**{"norm": norm, "eps": eps, "step_size": step_size} | told)


def data_settings(
    trained: Mapping[str, Any], given: Mapping[str, Any], trust: Sequence[str] = ()
) -> dict[str, Any]:
    """Class of the data, as ``_target_``, and where they are.

    What is not ``given`` is as in the configuration of its training or, for a network not trained
    here, CIFAR-10's. That file may come from anybody: it names data of this package, and a class
    only if that is of a package in ``trust``, which then gets all that the training gave it. What
    is ``given`` may be a data set's whole YAML, with a class of the user's own.
    """
    told = {key: value for key, value in given.items() if value is not None}
    if "_target_" in told:
        return {key: value for key, value in told.items() if key != "name"}
    own = trained.get("data") or {}
    name, target = str(told.get("name") or own.get("name", "cifar10")), str(own.get("_target_"))
    if name == own.get("name") and trusted(target, trust):
        return {key: value for key, value in (own | told).items() if key != "name"}
    shipped = {path.stem: path for path in (conf_dir() / "data").glob("*.yaml")}
    if name not in shipped:
        choose = f"choose one of: {', '.join(sorted(shipped))}"
        if name == own.get("name"):
            package, target = printable(target.partition(".")[0])[:40], printable(target)[:120]
            choose += f"; or trust its class {target} with trust=[{package}]"
        name = printable(name)[:80]
        choose += f"; or give one of your own with data={name} hydra.searchpath=[...]"
        raise UserError(f"data.name={name} is unknown; {choose}")
    settings = dict(OmegaConf.load(shipped[name]))
    if name == own.get("name"):
        told = own | told
    where = {key: told.get(key, settings[key]) for key in WHERE if key in settings}
    if "download" in where and given.get("root") is None and where["root"] != settings["root"]:
        # Nothing is fetched into a folder that only the file names, unless the user says so.
        where["download"] = bool(given.get("download"))
    return {"_target_": settings["_target_"]} | where


def say_if_short(attack: PGDAttack, counts: Sequence[int]) -> None:
    """Print a line if some of these numbers of steps are shorter than the radius."""
    if line := attack.falls_short(counts):
        print(f"warning: {line}")  # noqa: T201


def load_data(settings: Mapping[str, Any]) -> ImageDataModule:
    """The DataModule of :func:`data_settings`, its data read."""
    arguments = {key: value for key, value in settings.items() if key != "_target_"}
    with as_user_error("data: ", (Exception,)):  # it is anybody's module
        kind = get_object(settings["_target_"])
    with as_user_error("data."):
        datamodule: ImageDataModule = kind(**arguments)
    datamodule.val_size = 0  # a training's concern
    datamodule.setup()
    return datamodule


def _trained(networks: Sequence[TrainedNetwork]) -> Sequence[TrainedNetwork]:
    """Those that say how they were trained, if there are such."""
    return [each for each in networks if each.config] or networks


def _which(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells data from others: the class, and of one's own arrays the file."""
    own = str(settings["_target_"]).endswith(".ArraysDataModule")
    return settings["_target_"], settings.get("root") if own else None


def choose_device(name: str) -> torch.device:
    """``cpu``, ``cuda``, or ``auto``: a GPU if there is one."""
    with as_user_error():
        check_choice("device", name, ("auto", "cpu", "cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old
        available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device=cuda: torch finds no GPU here; use device=cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _finished(path: Path, kind: type[R], evaluation_id: str) -> R | None:
    try:
        record = records.read_record(path, kind)
        records.read_verdicts(path.with_suffix(".npz"), record)
        for name in record.files:
            records.check_file(path.with_name(name), record)
    except (FileNotFoundError, UserError):  # damaged: it is made anew
        return None
    if record.evaluation_id != evaluation_id:
        return None
    if isinstance(record, EvaluationRecord):
        folder = path.parents[1]
        if outdated(record, folder, finished_run(folder)):  # the report leaves it out
            return None
    return record
