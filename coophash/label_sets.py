"""Several labels an image: what CoopHash makes of a set of labels where the paper has one label.

The paper was tested on sets with several labels (NUS-WIDE, COCO) and its published pages do not
say how, so all of this is our reading. Labels are then multi-hot, float (B, classes) of 0 and 1,
with at least one label in each row:

    generator      multi-hot c, concatenated with z; conditional normalisation by the mean of the
                   gains and biases of its labels (`networks`)
    c-             `apart`: the labels of another image of the batch that shares none with c
    energy         f_E(x, c), the mean over the labels of c (`kernels.energy`)
    category head  p(c | x): independent classes, binary cross-entropy (`coop_terms.category_loss`)
    triplets       "same" is to share a label, as in the mAP of such sets
    quantisation   of outputs less their mean over the batch, which no bit gains by being the same
                   for all: sets of labels are slow to tell apart, and the plain term was seen to
                   make all codes one before they were (docs/LOG.md)
    centring       `centre`: the part of z~ that is linear in c

With one label in every row all but the category head and quantisation are what they are for classes
(B,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RIDGE = 1e-6  # of a regression on labels that some batch may not have


def share(labels: Tensor, others: Tensor) -> Tensor:
    """Whether two sets, row by row, have a label in common: (B, classes) twice -> bool (B,)."""
    return (labels * others).sum(1) > 0


def apart(labels: Tensor, source: torch.Generator) -> Tensor:
    """c-: of each row the labels of another row that shares none with it, drawn uniformly.

    So c- is drawn from the data's label sets, as in Eq. 1. A row that shares a label with all the
    others gets one label that it has not; one that has them all gets one of its own: c- is then not
    c, but no negative of it either.

    labels: (B, classes) multi-hot -> (B, classes).
    """
    batch, classes = labels.shape
    disjoint = labels @ labels.T == 0
    shape = (batch, batch + classes)
    draw = torch.rand(shape, generator=source, device=labels.device)
    row = draw[:, :batch].masked_fill(~disjoint, -1.0).argmax(1)
    single = (draw[:, batch:] - labels).argmax(1)  # below 0 where the row has the label
    alone = F.one_hot(single, classes).to(labels.dtype)
    return torch.where(disjoint.any(1)[:, None], labels[row], alone)


def one_of(labels: Tensor, source: torch.Generator) -> Tensor:
    """One label of each row, drawn uniformly: (B, classes) multi-hot -> (B,) int64."""
    draw = torch.rand(labels.shape, generator=source, device=labels.device)
    return (draw - 2 * (1 - labels)).argmax(1)


def centre(latent: Tensor, labels: Tensor) -> Tensor:
    """Take from the latents what a linear function of their labels predicts over the batch.

    Of image i the share 1 - l_i of its prediction is taken away, where l_i is its leverage, the
    weight of its own latent in that prediction. With one label an image the prediction is the mean
    over the class and the leverage 1 / n: `coop_terms.centre_by_class`. The image of a label
    that is alone in the batch has leverage 1 and keeps its latent.

    latent: (B, d); labels: (B, classes) multi-hot -> (B, d).
    """
    with torch.no_grad():  # a matrix of the labels alone; in float64, as labels may coincide
        hot = F.pad(labels.double(), (0, 1), value=1.0)
        gram = hot.T @ hot + RIDGE * torch.eye(hot.shape[1], dtype=hot.dtype, device=hot.device)
        fit = hot @ torch.linalg.inv_ex(gram)[0] @ hot.T  # without a look at the device
        fit = ((1 - fit.diagonal())[:, None] * fit).to(latent.dtype)
    centred: Tensor = latent - fit @ latent
    return centred


def likeliest(logits: Tensor) -> Tensor:
    """The labels with probability 1/2 or more, at least the likeliest: (B, classes) -> bool."""
    best = F.one_hot(logits.argmax(1), logits.shape[1]).bool()
    return (logits >= 0) | best
