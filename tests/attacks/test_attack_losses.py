import pytest
import torch

from attacks.losses import dlr, log_odds, margin, named_loss, targeted_dlr

LOGITS = torch.tensor([[4.0, 1.0, 3.0, -1.0], [0.0, 2.0, 5.0, 1.0]])
Y = torch.tensor([0, 1])


def test_values_by_hand():
    assert torch.equal(margin(LOGITS, Y), torch.tensor([-1.0, 3.0]))
    assert torch.allclose(dlr(LOGITS, Y), torch.tensor([-1 / 3, 3 / 4]))
    # (z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2)
    expected = torch.tensor([(1 - 4) / (4 - 0.0), (0 - 2) / (5 - 0.5)])
    assert torch.allclose(targeted_dlr(LOGITS, Y, torch.tensor([1, 0])), expected)
    cross_entropy = -LOGITS.log_softmax(1)[[0, 1], Y]
    assert torch.allclose(torch.nn.functional.softplus(log_odds(LOGITS, Y)), cross_entropy)


def test_a_confident_network_still_has_a_gradient():
    logits = torch.tensor([[300.0, 0.0, 1.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(log_odds(logits, torch.tensor([0])).sum(), logits)
    others = torch.tensor([0.0, 1.0]).softmax(0)
    assert torch.allclose(grad, torch.tensor([[-1.0, others[0], others[1]]]))


@pytest.mark.parametrize("loss", [dlr, lambda z, y: targeted_dlr(z, y, (y + 1) % z.shape[1])])
@pytest.mark.parametrize("classes", [3, 4, 7])
def test_ratios_ignore_shift_and_scale(loss, classes):
    logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(5) % classes
    assert torch.allclose(loss(logits, y), loss(3 * logits + 7, y))


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_still_have_a_gradient(classes):
    logits = torch.tensor([[2.0, 1.0, 0.5]])[:, :classes].requires_grad_()
    y = torch.tensor([0])
    for values in (dlr(logits, y), targeted_dlr(logits, y, torch.tensor([1]))):
        (grad,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
        assert grad[0, 0] < 0 < grad[0, 1]
        assert values.item() < 0


def test_unknown_name():
    with pytest.raises(ValueError, match=r"loss='hinge'.*ce, margin, dlr"):
        named_loss("hinge")
