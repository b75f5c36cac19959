import pytest
import torch
from torch import nn

from attacks import FGSM, PGD, ThreatModel, evaluating, frozen


def mixed_model():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.train()
    model[1].eval()  # a part kept in another mode than the whole
    model[0].bias.requires_grad_(False)
    return model


def state(model):
    modes = [module.training for module in model.modules()]
    return modes, [parameter.requires_grad for parameter in model.parameters()]


@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_gets_its_own_mode_back(mode, fails):
    model = mixed_model()
    before = state(model)
    seen = []

    def look(module, inputs):
        seen.append(state(model))
        if fails:
            raise KeyError("mid-attack")

    model.register_forward_pre_hook(look)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    attack = PGD(ThreatModel("linf", 0.1), steps=2, mode=mode)
    if fails:
        with pytest.raises(KeyError):
            attack(model, x, y)
    else:
        attack(model, x, y)
    assert state(model) == before
    modes, flags = seen[0]
    assert not any(flags)
    expected = {"eval": [False] * 5, "train": [True] * 5, "keep": before[0]}[mode]
    assert modes == expected


def test_eval_mode_leaves_running_statistics_alone():
    model = mixed_model()
    before = model[2].running_mean.clone()
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    FGSM(ThreatModel("linf", 0.1))(model, x, y)
    assert torch.equal(model[2].running_mean, before)
    FGSM(ThreatModel("linf", 0.1), mode="train")(model, x, y)
    assert not torch.equal(model[2].running_mean, before)


def test_the_two_context_managers_alone():
    model = mixed_model()
    before = state(model)
    with frozen(model), evaluating(model):
        assert state(model) == ([False] * 5, [False] * 6)
    assert state(model) == before
    assert not any(parameter.grad is not None for parameter in model.parameters())
    with frozen(torch.sin), evaluating(torch.sin):  # a plain callable has no state
        pass
