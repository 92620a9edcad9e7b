"""The defences, one file each; every one is a LightningModule."""

from lrm_lightning.methods.alp import AdversarialLogitPairing
from lrm_lightning.methods.base import Defense
from lrm_lightning.methods.clean_logit_pairing import CleanLogitPairing
from lrm_lightning.methods.label_smoothing import LabelSmoothing
from lrm_lightning.methods.logit_squeezing import LogitSqueezing
from lrm_lightning.methods.lrm import LogitRegularization
from lrm_lightning.methods.mixup import Mixup
from lrm_lightning.methods.optimizer import SGDRecipe
from lrm_lightning.methods.pgd import PGDTraining
from lrm_lightning.methods.regular import Regular
from lrm_lightning.methods.vh_mixup import VHMixup

__all__ = [
    "AdversarialLogitPairing",
    "CleanLogitPairing",
    "Defense",
    "LabelSmoothing",
    "LogitRegularization",
    "LogitSqueezing",
    "Mixup",
    "PGDTraining",
    "Regular",
    "SGDRecipe",
    "VHMixup",
]
