"""Six published losses of supervised hashing in one PyTorch loop of your own.

python examples/baseline_losses.py
"""

import torch

import coophash as ch
from coophash import losses

BITS, CLASSES = 32, 10
torch.manual_seed(0)
means = torch.randn(CLASSES, 192)
codes_of_classes = losses.hash_centers(CLASSES, BITS)


def blobs(count):
    """Vectors of ten classes, and their classes."""
    labels = torch.randint(0, CLASSES, (count,))
    return means[labels] + 2.5 * torch.randn(count, 192), labels


def greedyhash(u, labels):
    return losses.greedyhash_loss(u, classifier(losses.straight_through_sign(u)), labels)


# u: (B, BITS) real outputs, before any activation; labels: (B,), or (B, CLASSES) of 0 and 1
LOSSES = {
    "dpsh": losses.dpsh_loss,
    "dtsh": losses.dtsh_loss,
    "hashnet": losses.hashnet_loss,
    "greedyhash": greedyhash,
    "csq": lambda u, labels: losses.csq_loss(u, labels, codes_of_classes),
    "orthohash": lambda u, labels: losses.orthohash_loss(u, labels, codes_of_classes),
}
train, train_labels = blobs(500)
test, test_labels = blobs(100)
database, database_labels = blobs(2000)

for name, loss in LOSSES.items():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(192, 64), torch.nn.ReLU(), torch.nn.Linear(64, BITS))
    classifier = torch.nn.Linear(BITS, CLASSES, bias=False)
    optimizer = torch.optim.Adam([*net.parameters(), *classifier.parameters()], 3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(train)).split(50):
            optimizer.zero_grad()
            loss(net(train[rows]), train_labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        queries, codes = ch.pack(net(test)), ch.pack(net(database))
    score = ch.metrics.mean_average_precision(queries, codes, test_labels, database_labels)
    print(f"{name:10} mAP {score:.3f}")
