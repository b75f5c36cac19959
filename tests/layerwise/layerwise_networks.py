"""Small networks of many kinds, for the walk over their layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class PreActivation(nn.Module):
    """A residual network whose layers are registered backwards, with an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(6, 6, 3, padding=1)
        self.stem = nn.Conv2d(2, 6, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        y = self.second(torch.relu(self.norm(self.first(torch.relu(h)))))
        h = h + y
        return self.head(h.relu_().mean((2, 3)))


class BasicBlock(nn.Module):
    """A block of ResNet (v1), as in torchvision: batch norm before the addition, in place."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.downsample: nn.Module | None = None
        if stride != 1 or ins != outs:
            self.downsample = nn.Sequential(
                nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 4, 1))
        self.layer2 = nn.Sequential(BasicBlock(4, 6, 2), BasicBlock(6, 6, 1))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class Twice(nn.Module):
    """A layer that is called twice, and two that share their input."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(10, 3)
        self.right = nn.Linear(5, 5)
        self.left = nn.Linear(5, 5)
        self.again = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.again(torch.tanh(self.again(x))))
        return self.out(torch.cat([self.left(h), self.right(h)], 1)), h


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=4, n_positions=16)
    )


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=24, max_position_embeddings=16, num_labels=3,
        )
    )  # fmt: skip


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "cnn": cnn,
    "pre-activation": PreActivation,
    "resnet": ResNet,
}
TEXTS: dict[str, Callable[[], nn.Module]] = {"llama": llama, "gpt2": gpt2, "bert": bert}


def made(name: str) -> nn.Module:
    """The network of this name, with batch norms that have seen something, in eval mode."""
    torch.manual_seed(0)
    network = {**IMAGES, **TEXTS, "twice": Twice}[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.normal_(module.bias)
    return network.eval()


def data_for(name: str, *, batches: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Batches of eight examples that the network takes."""
    g = torch.Generator().manual_seed(1)

    def x() -> Tensor:
        if name in TEXTS:
            return torch.randint(20, (8, 7), generator=g)
        return torch.rand(8, *((5,) if name == "twice" else (2, 10, 10)), generator=g)

    return [(x(), torch.randint(3, (8,), generator=g)) for _ in range(batches)]
