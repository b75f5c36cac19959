"""Crop and flip: against a plain loop, and reproducible."""

import torch

from robustprune.tasks.augment import crop_and_flip


def test_every_image_is_a_window_of_its_padded_self_or_the_mirror() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 2, 5, 7, generator=generator) + 0.1
    out = crop_and_flip(x, generator)
    seen = set()
    for image, got in zip(x, out, strict=True):
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
        matches = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if torch.equal(
                got,
                padded[:, top : top + 5, left : left + 7].flip(2)
                if flip
                else padded[:, top : top + 5, left : left + 7],
            )
        ]
        assert matches
        seen.add(matches[0])
    # 64 draws of 162 outcomes: most differ, and all extremes of the offsets turn up.
    assert len(seen) > 40
    assert {top for top, _, _ in seen} == set(range(9))
    assert {left for _, left, _ in seen} == set(range(9))
    assert {flip for _, _, flip in seen} == {False, True}


def test_the_generator_alone_decides() -> None:
    x = torch.rand(8, 3, 32, 32)
    first, second = (crop_and_flip(x, torch.Generator().manual_seed(5)) for _ in range(2))
    other = crop_and_flip(x, torch.Generator().manual_seed(6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
