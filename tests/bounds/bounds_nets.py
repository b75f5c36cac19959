"""Small random networks of every supported kind, in float64."""

import torch
from torch import nn
from torch.nn import functional as F

from robustprune.models import FCN, GlobalAveragePool, LeNet, Normalize, PreActNet


class Residual(nn.Module):
    """Batch norm, a skip connection, a concatenation, and means in functional form."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.third = nn.Conv1d(8, 3, 2, stride=2)
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = x + torch.tanh(self.second(x))
        x = torch.cat((x, -0.5 * x.sigmoid() + 1), dim=1)
        return self.last(F.leaky_relu(self.third(x), 0.1).mean(dim=2))


class Views(nn.Module):
    """Reshapes by every road, constants on both sides, pools in functional form."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.randn(1, 1, 1, 6))
        self.weight = nn.Parameter(torch.randn(3, 9))

    def forward(self, x):
        x = (2 - x) / 0.7 - self.shift
        x = F.max_pool2d(x.relu(), 3, stride=2, padding=1)
        x = F.avg_pool2d(F.pad(x, (0, 1, 1, 0)), 2, stride=2, padding=1)
        x = x.view(x.size(0), -1).reshape(x.shape[0], 3, -1).unsqueeze(1).squeeze(1)
        return torch.tanh(torch.flatten(x, 1)) @ self.weight.T


def _mlp(activation):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 12), activation, nn.Linear(12, 9), activation, nn.Linear(9, 3)
    )


def _conv2d():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, (3, 2), padding="same", dilation=(1, 2)),
        nn.LeakyReLU(0.2),
        nn.Dropout2d(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def _pools():
    return nn.Sequential(
        nn.Conv1d(1, 3, 4, stride=2, padding=3),
        nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True),
        nn.Sigmoid(),
        nn.AvgPool1d(2, padding=1),
        nn.Conv1d(3, 3, 1),
        nn.Tanh(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    )


def _preact():
    net = PreActNet(1, 3, stem=3, widths=(3, 4), depth=1, affine_norm=True)
    return nn.Sequential(Normalize([0.2], [0.4]), net)


NETS = {
    "mlp": ((6,), lambda: _mlp(nn.ReLU())),
    "mlp_tanh": ((6,), lambda: _mlp(nn.Tanh())),
    "mlp_sigmoid": ((6,), lambda: _mlp(nn.Sigmoid())),
    "conv2d": ((1, 8, 4), _conv2d),
    "pools": ((1, 11), _pools),
    "residual": ((2, 9), Residual),
    "views": ((1, 6, 6), Views),
    "preact": ((1, 6, 6), _preact),
    "lenet": ((1, 8, 8), lambda: LeNet((1, 8, 8), 3, width=1)),
    "fcn": ((1, 12), lambda: FCN(1, 2, widths=(4, 5, 3), kernels=(4, 3, 3))),
    "gap": ((2, 7), lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), GlobalAveragePool())),
}


def random_net(name, seed, examples=3):
    """A network with random batch-norm statistics, inputs in [0, 1], and its own predictions."""
    shape, build = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 2)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
        x = torch.rand(examples, *shape).double()
    model.eval()
    return model, x, model(x).argmax(1)
