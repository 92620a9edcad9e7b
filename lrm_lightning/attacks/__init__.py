"""Attacks on the pixels of images: FGSM and PGD, in L-inf and L2."""

from lrm_lightning.attacks.pgd import fgsm, pgd
from lrm_lightning.attacks.settings import PGDAttack
from lrm_lightning.attacks.trajectory import Iterate, Trajectory, trajectory

__all__ = ["Iterate", "PGDAttack", "Trajectory", "fgsm", "pgd", "trajectory"]
