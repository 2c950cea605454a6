"""Any PyTorch training loop: pack the outputs, then evaluate and search the codes.

python examples/pytorch_loop.py
"""

import torch

import coophash as ch

torch.manual_seed(0)
centres = torch.randn(10, 192)


def blobs(count):
    """Vectors of ten classes, and their classes."""
    labels = torch.randint(0, 10, (count,))
    return centres[labels] + 2.5 * torch.randn(count, 192), labels


train, train_labels = blobs(500)
test, test_labels = blobs(100)
database, database_labels = blobs(2000)
net = torch.nn.Sequential(torch.nn.Linear(192, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
optimizer = torch.optim.Adam(net.parameters(), 5e-3)

for epoch in range(1, 5):
    for rows in torch.randperm(len(train)).split(50):
        outputs, labels = torch.tanh(net(train[rows])), train_labels[rows]
        similar = (labels[:, None] == labels).float() * 2 - 1
        loss = (outputs @ outputs.T / 32 - similar).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        queries, codes = ch.pack(net(test)), ch.pack(net(database))  # (N, 4) uint8
    both = queries, codes, test_labels, database_labels
    mAP = ch.metrics.mean_average_precision(*both)
    within = ch.metrics.precision_at_radius(*both, radius=2)
    print(f"epoch {epoch}: mAP {mAP:.3f}, precision within radius 2 {within:.3f}")

index = ch.HammingIndex(bits=32)
index.add(codes)
distances, ids = index.search(queries[:1], k=5)
print(f"a query of class {int(test_labels[0])}")
print(f"its nearest: rows {ids[0].tolist()}, classes {database_labels[ids[0]].tolist()}")
