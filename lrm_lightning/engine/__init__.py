"""How attacks are computed, not what they compute: the fast way and the plain one."""

from lrm_lightning.engine.folding import folded
from lrm_lightning.engine.graphs import Replayed
from lrm_lightning.engine.view import ENGINES, attack_view

__all__ = ["ENGINES", "Replayed", "attack_view", "folded"]
