"""DeepHash-pytorch's training scripts with coophash underneath: one import is another.

python examples/deephash_pytorch_evaluation.py
"""

import torch
from torch.utils.data import DataLoader, Dataset

import coophash as ch
from coophash.compat.deephash import CalcTopMap, compute_result  # was: from utils.tools import *

torch.manual_seed(0)


class Blobs(Dataset):
    """Images of ten classes; yields (image, one-hot label, index) as the lists of that project."""

    centres = torch.randn(10, 3, 8, 8)

    def __init__(self, per_class):
        self.labels = torch.arange(10).repeat_interleave(per_class)  # in class order, like theirs
        self.images = self.centres[self.labels] + 2.5 * torch.randn(10 * per_class, 3, 8, 8)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], torch.eye(10)[self.labels[index]], index


def pairwise_loss(u, y):
    """Outputs of a pair that shares a label should be alike, others opposite."""
    similar = 2 * (y @ y.T > 0).float() - 1
    return (u @ u.T / u.shape[1] - similar).square().mean()


def train_val(config, bit):
    train, test, database = (DataLoader(Blobs(n), 50, shuffle=n == 50) for n in (50, 10, 200))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 64), torch.nn.ReLU())
    net.extend([torch.nn.Linear(64, bit), torch.nn.Tanh()])
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for epoch in range(config["epoch"]):
        net.train()
        for image, label, _ in train:
            optimizer.zero_grad()
            pairwise_loss(net(image), label).backward()
            optimizer.step()
        qB, queryL = compute_result(test, net, device=config["device"])
        rB, retrievalL = compute_result(database, net, device=config["device"])
        mAP = CalcTopMap(*(x.numpy() for x in (rB, qB, retrievalL, queryL)), config["topK"])
        print(f"epoch:{epoch + 1} bit:{bit} MAP:{mAP:.4f}")
    right = ch.metrics.mean_average_precision(ch.pack(qB), ch.pack(rB), queryL, retrievalL)
    print(f"mean over the orders of ties: {right:.4f}")


train_val({"epoch": 4, "topK": -1, "device": "cpu"}, bit=16)
