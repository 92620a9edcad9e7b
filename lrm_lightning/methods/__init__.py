"""The defences, one file each; every one is a LightningModule."""

from lrm_lightning.methods.alp import AdversarialLogitPairing
from lrm_lightning.methods.base import Defense
from lrm_lightning.methods.clean_logit_pairing import CleanLogitPairing
from lrm_lightning.methods.gat import GuidedTraining
from lrm_lightning.methods.ikl import ImprovedKL
from lrm_lightning.methods.lrm import LogitRegularization
from lrm_lightning.methods.mart import MART
from lrm_lightning.methods.nuat import NuclearNormTraining
from lrm_lightning.methods.pgd import PGDTraining
from lrm_lightning.methods.regular import Regular
from lrm_lightning.methods.trades import TRADES

__all__ = [
    "MART",
    "TRADES",
    "AdversarialLogitPairing",
    "CleanLogitPairing",
    "Defense",
    "GuidedTraining",
    "ImprovedKL",
    "LogitRegularization",
    "NuclearNormTraining",
    "PGDTraining",
    "Regular",
]
