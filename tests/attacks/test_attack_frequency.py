import pytest
import torch
from torch import nn

from attacks import AdvDrop, robust_accuracy
from attacks.frequency import dct, dct_matrix, inverse_dct, soft_round


def test_dct_matrix_is_orthonormal_and_names_frequencies():
    matrix = dct_matrix(8, torch.zeros(1).double())
    assert torch.allclose(matrix @ matrix.T, torch.eye(8).double(), atol=1e-12)
    wave = torch.cos(torch.pi / 8 * (torch.arange(8) + 0.5) * 3).double()
    assert (matrix @ wave).abs().argmax().item() == 3


def test_dct_agrees_with_scipy():
    scipy_fft = pytest.importorskip("scipy.fft")
    x = torch.randn(2, 3, 8, 8).double()
    expected = scipy_fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")
    assert torch.allclose(dct(x, 8)[:, :, 0, :, 0, :], torch.from_numpy(expected))


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 20), (2, 1, 12, 17), (1, 2, 5, 6, 7)])
@pytest.mark.parametrize("block", [None, 4, 8])
def test_inverse_restores_any_shape(shape, block):
    x = torch.randn(shape).double()
    assert torch.allclose(inverse_dct(dct(x, block), x.shape), x)


def test_soft_rounding_tends_to_rounding():
    v = torch.tensor([0.2, 0.8, -1.3, 2.0])
    assert torch.allclose(soft_round(v, 200.0), v.round(), atol=1e-5)


@pytest.mark.parametrize("shape", [(24,), (2, 24), (1, 12, 12)])
def test_drops_what_the_model_relies_on(shape):
    """The label is the sign of one high frequency of small amplitude under a large low one."""
    wave = torch.cos(torch.pi / shape[-1] * (torch.arange(shape[-1]) + 0.5) * 4)
    coin = (torch.arange(20) % 2 * 2 - 1).reshape(20, *(1,) * len(shape))
    x = 0.5 + 0.3 * coin * wave.expand(20, *shape)
    y = torch.arange(20) % 2

    def model(batch):
        score = ((batch - 0.5) * wave).flatten(1).sum(1)
        return torch.stack((0.1 - score, score + 0.1 * 0), 1)

    bounds = (0.0, 1.0)
    weak = AdvDrop(0.01, bounds=bounds)(model, x, y)
    strong = AdvDrop(8.0, bounds=bounds)(model, x, y)
    assert robust_accuracy(model, weak, y) == 1
    assert robust_accuracy(model, strong, y) <= 0.5  # the wave is gone: one class for all
    assert (strong - x).abs().max() > 0.2
    assert strong.min() >= 0
    assert strong.max() <= 1
    assert AdvDrop(0.1)(model, x[:0], y[:0]).shape == (0, *shape)


def test_without_bounds_every_frequency_is_a_multiple_of_one_step():
    """One step a frequency: two blocks of one example share it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    x = torch.randn(1, 1, 32).double()
    model.double()
    y = model(x).argmax(1)
    attack = AdvDrop(1.0, min_step=1.0, block=8)  # q is fixed at 1
    frequencies = dct(attack(model, x, y), 8)
    assert torch.allclose(frequencies, frequencies.round(), atol=1e-9)


def test_refusals():
    with pytest.raises(ValueError, match=r"min_step=2\.0 and max_step=1\.0"):
        AdvDrop(1.0, min_step=2.0)
    with pytest.raises(ValueError, match="steps=0"):
        AdvDrop(1.0, steps=0)
