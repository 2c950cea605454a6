"""Random projections and ITQ: their own properties, and ITQ beside faiss."""

from __future__ import annotations

import numpy as np
import pytest

from coophash import metrics, pack, unpack
from coophash.baselines import ITQ, RandomProjection


@pytest.fixture(scope="module")
def clustered():
    """Correlated clusters in 64 dims: train and query features with labels."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 64))
    mixing = np.diag(np.geomspace(3, 0.3, 64)) @ np.linalg.qr(rng.normal(size=(64, 64)))[0]
    labels = rng.integers(0, 10, 2400)
    x = (centres[labels] + rng.normal(size=(2400, 64))) @ mixing + 5
    return (x[:2000], labels[:2000]), (x[2000:], labels[2000:])


def map_of(model, clustered):
    (x, labels), (queries, query_labels) = clustered
    model.fit(x)
    return metrics.mean_average_precision(
        model.encode(queries), model.encode(x), query_labels, labels
    )


def test_itq_lowers_the_quantisation_error(clustered):
    model = ITQ(32).fit(clustered[0][0])
    assert len(model.errors) == 51
    assert (np.diff(model.errors) <= 1e-9 * model.errors[0]).all()
    assert model.errors[-1] < 0.95 * model.errors[0]
    # The error is that of the outputs that encode takes the signs of.
    outputs = model.transform(clustered[0][0])
    error = ((np.where(outputs >= 0, 1, -1) - outputs) ** 2).sum(axis=1).mean()
    assert error == pytest.approx(model.errors[-1], rel=1e-9)


def test_itq_components_and_rotation(clustered):
    x = clustered[0][0]
    model = ITQ(16, seed=3).fit(x)
    np.testing.assert_allclose(model.rotation @ model.rotation.T, np.eye(16), atol=1e-10)
    np.testing.assert_allclose(model.components.T @ model.components, np.eye(16), atol=1e-10)
    np.testing.assert_allclose(model.projection, model.components @ model.rotation)
    # The components are those of the singular value decomposition, up to their signs.
    right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:16]
    np.testing.assert_allclose(np.abs(right @ model.components), np.eye(16), atol=1e-6)


def test_itq_recovers_a_hidden_cube():
    # Corners of a turned cube: the rotation that quantises without error exists and is found, to
    # a permutation and signs of the bits.
    rng = np.random.default_rng(1)
    corners = rng.choice([-1.0, 1.0], (4000, 4)) + 0.1 * rng.normal(size=(4000, 4))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    model = ITQ(4, iterations=200).fit(corners @ turn)
    assert model.errors[-1] < 0.06 < model.errors[0]
    overlap = np.abs(turn @ model.projection)
    np.testing.assert_allclose(np.sort(overlap, axis=1)[:, -1], 1, atol=0.02)


def test_itq_beats_random_projections_and_its_own_start(clustered):
    itq = np.mean([map_of(ITQ(32, seed=s), clustered) for s in range(3)])
    pca = np.mean([map_of(ITQ(32, seed=s, iterations=0), clustered) for s in range(3)])
    random = np.mean([map_of(RandomProjection(32, seed=s), clustered) for s in range(3)])
    chance = np.mean(np.bincount(clustered[0][1]) / 2000)
    assert itq > pca and itq > random + 0.02 and random > chance + 0.05


def test_itq_agrees_with_procrustes_of_scipy(clustered):
    linalg = pytest.importorskip("scipy.linalg")
    x = clustered[0][0]
    start, model = ITQ(24, seed=4, iterations=0).fit(x), ITQ(24, seed=4, iterations=30).fit(x)
    projected = (x - model.mean) @ model.components
    rotation = start.rotation
    for _ in range(30):
        signs = np.where(projected @ rotation >= 0, 1.0, -1.0)
        rotation = linalg.orthogonal_procrustes(projected, signs)[0]
    np.testing.assert_allclose(model.rotation, rotation, atol=1e-8)


def test_itq_is_not_below_faiss(clustered):
    # faiss brings the centred data to unit length first, so both get that. Not equal to it: where
    # LAPACK returns the transpose of V, faiss's update of the rotation (1.15.1) transposes again,
    # which is no Procrustes step, and its quantisation error does not go down.
    faiss = pytest.importorskip("faiss")
    (x, labels), (queries, query_labels) = clustered
    x, queries = x - x.mean(axis=0), queries - x.mean(axis=0)
    x, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, queries))
    transform = faiss.ITQTransform(64, 32, True)
    transform.train(x.astype(np.float32))
    theirs = metrics.mean_average_precision(
        *(pack(transform.apply(part.astype(np.float32))) for part in (queries, x)),
        query_labels,
        labels,
    )
    ours = [map_of(ITQ(32, seed=s), ((x, labels), (queries, query_labels))) for s in range(3)]
    assert min(ours) > theirs > 0.5

    model = ITQ(32).fit(x)
    projected = ((x - model.mean) @ model.components).astype(np.float32)
    rotation = faiss.ITQMatrix(32)
    rotation.train(projected)
    outputs = rotation.apply(projected)
    error = ((np.where(outputs >= 0, 1, -1) - outputs) ** 2).sum(axis=1).mean()
    assert model.errors[-1] < error < 1.1 * model.errors[-1]  # the same quantity


def test_random_projections_keep_angles():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 20))
    model = RandomProjection(4096, seed=1).fit(x)
    centred = x - x.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    angles = np.arccos(np.clip(unit @ unit.T, -1, 1)) / np.pi
    signs = unpack(model.encode(x), 4096).astype(int)
    differing = (4096 - signs @ signs.T) / 2 / 4096
    # A share of 4096 coins has a standard deviation of 0.008 at most.
    np.testing.assert_allclose(differing, angles, atol=0.04)


@pytest.mark.parametrize("kind", [RandomProjection, ITQ])
def test_the_same_seed_gives_the_same_codes(kind, clustered):
    x = clustered[0][0]
    one, again, other = (kind(24, seed=s).fit(x).encode(x) for s in (1, 1, 2))
    assert one.dtype == np.uint8 and one.shape == (2000, 3)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("kind", [RandomProjection, ITQ])
def test_codes_are_the_signs_of_the_outputs(kind, clustered):
    x = clustered[0][0]
    model = kind(20).fit(x)
    outputs = model.transform(x[:7])
    assert outputs.shape == (7, 20)
    np.testing.assert_array_equal(unpack(model.encode(x[:7]), 20), np.where(outputs >= 0, 1, -1))
    np.testing.assert_array_equal(model.encode(x.astype(np.float32)[:7]), model.encode(x[:7]))
    assert repr(model) == f"{kind.__name__}(bits=20: fitted, 64 dims)"
    assert model.encode(x[:0]).shape == (0, 3)


@pytest.mark.parametrize("kind", [RandomProjection, ITQ])
def test_bad_input(kind, clustered):
    x = clustered[0][0]
    with pytest.raises(RuntimeError, match="is not fitted: call fit"):
        kind(8).encode(x)
    assert "not fitted" in repr(kind(8))
    for bits in (0, 5000):
        with pytest.raises(ValueError, match="bits must be 1 to 4096"):
            kind(bits)
    for bad, message in (
        (np.zeros((4, 3, 2, 2)), r"flatten the images, x.reshape\(len\(x\), -1\)"),
        (np.zeros(4), r"x must be real \(N, dims\)"),
        (np.zeros((0, 9)), "at least one item"),
        (np.full((4, 9), np.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(8).fit(bad)
    with pytest.raises(ValueError, match=r"x must be real \(N, 64\), as fitted"):
        kind(8).fit(x).transform(x[:, :5])


def test_itq_limits():
    with pytest.raises(ValueError, match="at most the number of dims, 8, got 9"):
        ITQ(9).fit(np.zeros((20, 8)))
    with pytest.raises(ValueError, match="at least 2 items"):
        ITQ(4).fit(np.zeros((1, 8)))
    with pytest.raises(ValueError, match="iterations must be an integer"):
        ITQ(4, iterations=-1)
    # Constant features have no direction of their own: any rotation will do, none may be NaN.
    assert np.isfinite(ITQ(4).fit(np.ones((20, 8))).projection).all()
