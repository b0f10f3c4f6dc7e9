"""Losses: pure functions of scores, targets and mask; one class and one export line each."""

from .contrastive import InfoNCE
from .loss import Loss

__all__ = ["InfoNCE", "Loss"]
