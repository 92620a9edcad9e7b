"""Attacks on the pixels of images: FGSM, N-FGSM and PGD, in L-inf and L2."""

from lrm_lightning.attacks.base import Attack, ThreatModel, attack_mode
from lrm_lightning.attacks.n_fgsm import NFGSM
from lrm_lightning.attacks.pgd import Iterate, PGDAttack, Trajectory, fgsm, pgd

__all__ = [
    "NFGSM",
    "Attack",
    "Iterate",
    "PGDAttack",
    "ThreatModel",
    "Trajectory",
    "attack_mode",
    "fgsm",
    "pgd",
]
