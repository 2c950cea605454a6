"""OrthoHash's way of training and evaluating with coophash underneath: one import is another.

python examples/orthohash_evaluation.py
"""

import torch

import coophash as ch
from coophash.compat.orthohash import calculate_mAP  # was: from functions.hashing import ...

BITS, CLASSES = 16, 10
torch.manual_seed(0)
centres = torch.randn(CLASSES, 192)


def blobs(count):
    """Vectors of ten classes, and their one-hot labels."""
    labels = torch.randint(0, CLASSES, (count,))
    return centres[labels] + 3 * torch.randn(count, 192), torch.eye(CLASSES)[labels]


def get_codes(model, vectors):
    with torch.no_grad():
        return torch.cat([model(batch) for batch in vectors.split(256)])


train, train_labels = blobs(500)
test, test_labels = blobs(100)
database, db_labels = blobs(2000)

# One target code for each class; the outputs turn towards it.
targets = torch.randn(CLASSES, BITS).sign()
model = torch.nn.Sequential(torch.nn.Linear(192, 64), torch.nn.ReLU(), torch.nn.Linear(64, BITS))
optimizer = torch.optim.Adam(model.parameters(), 5e-3)
for epoch in range(1, 5):
    for rows in torch.randperm(500).split(50):
        cosine = torch.nn.functional.cosine_similarity(
            model(train[rows])[:, None], targets[None], dim=2
        )
        loss = torch.nn.functional.cross_entropy(8 * cosine, train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    db_codes, test_codes = get_codes(model, database), get_codes(model, test)
    mAP = calculate_mAP(db_codes, db_labels, test_codes, test_labels, R=len(database))
    print(f"epoch {epoch} mAP: {mAP:.4f}")

order = torch.randperm(len(database))
mAP = calculate_mAP(db_codes[order], db_labels[order], test_codes, test_labels, R=len(database))
print(f"with the database in another order: {mAP:.4f}")
codes = ch.pack(test_codes), ch.pack(db_codes)
right = ch.metrics.mean_average_precision(*codes, test_labels, db_labels)
print(f"mean over the orders of ties: {right:.4f}")
