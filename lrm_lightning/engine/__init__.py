"""How attacks and training steps are computed, not what they compute: fast, or plainly."""

from lrm_lightning.engine.folding import folded
from lrm_lightning.engine.graphs import Replayed
from lrm_lightning.engine.steps import Drawn, RecordedStep, Step
from lrm_lightning.engine.view import ENGINES, attack_view

__all__ = ["ENGINES", "Drawn", "RecordedStep", "Replayed", "Step", "attack_view", "folded"]
