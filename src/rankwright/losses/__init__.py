"""Losses, pure functions of scores, targets and mask, and regularisers of representations; one export line each."""

from .approximate import ADRMSE, ApproxMRR, ApproxNDCG
from .contrastive import InfoNCE, SymmetricInfoNCE
from .distillation import KLDivergence, Pearson, SoftCrossEntropy
from .lambda_loss import LambdaLoss
from .listwise import ListMLE, ListNet, PListMLE
from .loss import Loss
from .pairwise import Hinge, MarginMSE, RankNet
from .pointwise import PointwiseBCE, PointwiseMSE
from .regularisers import GOR, L1, L2, Flops, Regulariser
from .wasserstein import Wasserstein2

__all__ = [
    "ADRMSE",
    "GOR",
    "L1",
    "L2",
    "ApproxMRR",
    "ApproxNDCG",
    "Flops",
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
    "Regulariser",
    "SoftCrossEntropy",
    "SymmetricInfoNCE",
    "Wasserstein2",
]
