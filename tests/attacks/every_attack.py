"""All attacks in a small size, for tests that ask the same of each."""

import torch

from attacks import (
    APGD,
    CW,
    DDN,
    FAB,
    FGSM,
    FMN,
    PGD,
    AdvDrop,
    AutoAttack,
    BandLimited,
    Bisection,
    DeepFool,
    Square,
    ThreatModel,
    Transfer,
    worst_of,
)


def inside_a_ball(threat):
    """Attacks that stay within ``threat``, by name."""
    return {
        "fgsm": FGSM(threat),
        "fgsm-rs": FGSM(threat, random_start=True, seed=0),
        "pgd": PGD(threat, steps=4, seed=0),
        "pgd-momentum": PGD(threat, steps=4, momentum=0.5, loss="dlr", seed=0),
        "pgd-restarts": PGD(threat, steps=3, restarts=2, loss="margin", seed=0),
        "pgd-early": PGD(threat, steps=4, early_stop=True, seed=0),
        "apgd": APGD(threat, steps=6, seed=0),
        "apgd-dlr": APGD(threat, steps=6, loss="dlr", seed=0),
        "apgd-t": APGD(threat, steps=6, loss="targeted", targets=3, seed=0),
        "square": Square(threat, queries=15, seed=0),
        "bisection": Bisection(PGD(threat, steps=3, seed=0), rounds=2, halvings=2),
        "worst-of": worst_of([FGSM(threat), PGD(threat, steps=2, seed=0)]),
        "autoattack": AutoAttack(threat, steps=4, queries=5, batch_size=4),
    }


def nearest(norm, bounds=None):
    """Attacks that look for the nearest adversarial example, by name."""
    found = {
        "fmn": FMN(norm, steps=6, bounds=bounds),
        "fab": FAB(norm, steps=4, targets=None, bounds=bounds),
        "fab-t": FAB(norm, steps=4, targets=2, bounds=bounds),
        "fab-restarts": FAB(norm, steps=3, targets=2, restarts=2, eps=0.3, bounds=bounds),
        "deepfool": DeepFool(norm, steps=5, bounds=bounds),
    }
    if norm == "l2":
        found["ddn"] = DDN(steps=6, bounds=bounds)
        found["cw"] = CW(steps=6, searches=2, initial_c=1.0, learning_rate=0.05, bounds=bounds)
    return found


def every_attack(norm="linf", eps=0.1, bounds=(0.0, 1.0)):
    """One of each, in L∞ where there is a choice."""
    threat = ThreatModel(norm, eps, bounds)
    found = {**inside_a_ball(threat), **nearest(norm, bounds)}
    found["advdrop"] = AdvDrop(0.3, steps=3, bounds=bounds)
    if norm != "l1":
        found["band"] = PGD(BandLimited(norm, eps, low=0, high=1), steps=3, seed=0)
    return found


def transfer_from(model, norm="linf", eps=0.1):
    return Transfer(PGD(ThreatModel(norm, eps), steps=2, seed=0), model)


def gradient_free(attack):
    return isinstance(attack, Square)


def state_of(model):
    """Everything of a module that an attack must leave as it is."""
    return (
        [value.clone() for value in model.state_dict().values()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
        [len(module._forward_hooks) for module in model.modules()],
    )


def same_state(before, after):
    alike = all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    return alike and before[1:] == after[1:]
