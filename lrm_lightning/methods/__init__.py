"""The defences, one file each; every one is a LightningModule.

Here are the paper's; each other one is imported from its own file.
"""

from lrm_lightning.methods.alp import AdversarialLogitPairing
from lrm_lightning.methods.base import Defense
from lrm_lightning.methods.clean_logit_pairing import CleanLogitPairing
from lrm_lightning.methods.lrm import LogitRegularization
from lrm_lightning.methods.pgd import PGDTraining
from lrm_lightning.methods.regular import Regular

__all__ = [
    "AdversarialLogitPairing",
    "CleanLogitPairing",
    "Defense",
    "LogitRegularization",
    "PGDTraining",
    "Regular",
]
