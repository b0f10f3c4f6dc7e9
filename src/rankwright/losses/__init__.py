"""Losses: pure functions of scores, targets and mask; one class and one export line each."""

from .approximate import ADRMSE, ApproxMRR, ApproxNDCG
from .contrastive import InfoNCE, SymmetricInfoNCE
from .distillation import KLDivergence, Pearson, SoftCrossEntropy
from .lambda_loss import LambdaLoss
from .listwise import ListMLE, ListNet, PListMLE
from .loss import Loss
from .pairwise import Hinge, MarginMSE, RankNet
from .pointwise import PointwiseBCE, PointwiseMSE
from .wasserstein import Wasserstein2

__all__ = [
    "ADRMSE",
    "ApproxMRR",
    "ApproxNDCG",
    "Hinge",
    "InfoNCE",
    "KLDivergence",
    "LambdaLoss",
    "ListMLE",
    "ListNet",
    "Loss",
    "MarginMSE",
    "PListMLE",
    "Pearson",
    "PointwiseBCE",
    "PointwiseMSE",
    "RankNet",
    "SoftCrossEntropy",
    "SymmetricInfoNCE",
    "Wasserstein2",
]
