"""shift_and_flip: every image against a plain loop, its draws, and what it leaves alone."""

import numpy as np
import pytest
import torch

from coophash.augmentation import shift_and_flip


def numbered(count=40, channels=2, height=7, width=9):
    """Images in which every pixel is another number."""
    size = (count, channels, height, width)
    return torch.arange(np.prod(size), dtype=torch.float32).reshape(size)


def moved(image, down, right, mirror):
    """By hand: the image seen through a window moved by (down, right), edges continued."""
    _, height, width = image.shape
    out = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            column = width - 1 - x if mirror else x
            row = min(max(y + down, 0), height - 1)
            out[:, y, x] = image[:, row, min(max(column + right, 0), width - 1)]
    return out


@pytest.mark.parametrize("shift, flip", [(0, True), (2, False), (2, True)])
def test_each_image_is_one_of_the_moves_and_all_moves_occur(shift, flip):
    images = numbered(300 if flip and shift else 120)
    out = shift_and_flip(images, shift, flip, seed=1, update=2)
    assert out.shape == images.shape
    every = range(-shift, shift + 1)
    moves = [(d, r, m) for d in every for r in every for m in ((False, True) if flip else (False,))]
    seen = set()
    for image, result in zip(images, out, strict=True):
        fitting = [move for move in moves if torch.equal(moved(image, *move), result)]
        assert len(fitting) == 1
        seen.add(fitting[0])
    assert seen == set(moves)


def test_draws_follow_seed_and_update():
    images = numbered()
    one = shift_and_flip(images, 3, True, 5, 6)
    assert torch.equal(one, shift_and_flip(images, 3, True, 5, 6))
    assert not torch.equal(one, shift_and_flip(images, 3, True, 5, 7))
    assert not torch.equal(one, shift_and_flip(images, 3, True, 6, 6))
    assert torch.equal(one, shift_and_flip(images, 3, True, 5, 6, draw=0))
    others = [shift_and_flip(images, 3, True, 5, 6, draw) for draw in (1, 2)]
    assert not any(torch.equal(one, other) for other in others)
    assert not torch.equal(*others)


def test_nothing_to_do_gives_the_images_themselves():
    images = numbered()
    assert shift_and_flip(images, 0, False, 0, 0) is images


def test_the_images_stay_as_they_are():
    images = numbered()
    before = images.clone()
    shift_and_flip(images, 2, True, 0, 0)
    assert torch.equal(images, before)
