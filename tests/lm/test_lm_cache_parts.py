"""Rounded rows, merged values and turned keys, each against its formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustprune.lm import Merging
from robustprune.lm.kv_bits import quantise, restore, rounded
from robustprune.lm.rotary import Rotary


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.sampled_from([4, 8]), st.integers(0, 10**6), st.floats(-9, 9))
def test_a_row_is_off_by_at_most_half_a_step(
    width: int, bits: int, seed: int, shift: float
) -> None:
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(seed)) + shift
    rows = quantise(x, bits)
    assert rows.codes.shape[-1] == (-(-width // 2) if bits == 4 else width)
    assert (restore(rows) - x).abs().le(rows.step / 2 + 1e-5).all()
    for end in (x.amin(-1), x.amax(-1)):  # the ends stay, also of vectors with one sign
        assert (restore(rows) - end.unsqueeze(-1)).abs().amin(-1).le(1e-5).all()


def test_equal_entries_stay() -> None:
    x = torch.full((2, 5), 3.7)
    assert torch.equal(rounded(x, 4), x)
    with pytest.raises(ValueError, match="4 or 8"):
        quantise(x, 3)


@pytest.mark.parametrize("bits", [4, 8])
def test_half_precision_rows_may_reach_from_end_to_end(bits: int) -> None:
    x = torch.tensor([[-60000.0, 60000.0, 0.0, 1234.0]], dtype=torch.float16)
    rows = quantise(x, bits)
    assert rows.step.dtype == rounded(x, bits).dtype == torch.float16
    assert (rounded(x, bits).float() - x.float()).abs().max() <= 0.52 * 120000 / (2**bits - 1) + 64


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_merged_values_equal_a_loop(n: int, spread: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 2, n, 3, generator=generator, dtype=torch.float64)
    scores = torch.rand(2, 2, n, generator=generator)
    k = int(torch.randint(1, n + 1, (), generator=generator))
    kept = torch.rand(2, 2, n, generator=generator).topk(k).indices.sort(-1).values
    real = torch.rand(2, 1, n, generator=generator).expand(2, 2, n) < 0.8
    found = Merging(spread, seed=seed).merged(values, scores, kept, real)
    draws = torch.rand(2, 2, n, generator=torch.Generator().manual_seed(seed))
    for b in range(2):
        for h in range(2):
            places = kept[b, h].tolist()
            rows = [values[b, h, j].clone() for j in places]
            mean = scores[b, h, places].mean()
            for j in set(range(n)) - set(places):
                if real[b, h, j] and draws[b, h, j] < scores[b, h, j] / mean:
                    for place in [i for i, other in enumerate(places) if other > j][:spread]:
                        rows[place] += values[b, h, j] / spread
            assert torch.allclose(found[b, h], torch.stack(rows))


def test_turned_keys_are_keys_of_another_position() -> None:
    frequencies = torch.tensor([1.0, 0.1, 0.01])
    rotary, keys = Rotary(frequencies), torch.randn(2, 3, 5, 8)
    zero = torch.zeros(2, 3, 5)
    at = [rotary.turned(keys, zero + place) for place in (3, 7)]
    assert torch.allclose(rotary.turned(at[0], zero + 4), at[1], atol=1e-5)
    assert torch.equal(at[0][..., 6:], keys[..., 6:])
    pair = torch.view_as_complex(torch.stack([keys[..., :3], keys[..., 3:6]], dim=-1))
    turned = pair * torch.exp(3j * frequencies)
    assert torch.allclose(at[0][..., :3], turned.real, atol=1e-5)
    assert torch.allclose(at[0][..., 3:6], turned.imag, atol=1e-5)
