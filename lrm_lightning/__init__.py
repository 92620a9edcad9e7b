"""Adversarial robustness through the logits: defences, attacks and their evaluation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrm_lightning.runs.networks import load_model as load_model

__version__ = "0.2.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> object:
    # Importing torch takes seconds; `import lrm_lightning` alone should not.
    if name == "load_model":
        from lrm_lightning.runs.networks import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
