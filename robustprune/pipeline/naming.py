"""What the models of a run are called, as its config alone tells."""

from __future__ import annotations

from robustprune.run.config import Config


def model_name(config: Config, method: str, density: float) -> str:
    """The name of what a method finds at a density."""
    section = config.search
    if method == "rst" and section.weights != "random":
        method = "rtt"
    return method if len(section.density) == 1 else f"{method}-{density:g}"


def headline_names(config: Config) -> tuple[str, ...]:
    """What the headline may be called, the first that there is: what the first method found at the
    first density, fine-tuned by the first mode where its search leaves that to do (a scratch ticket
    is meant to be used as found)."""
    section, modes = config.search, config.finetune.modes
    name = model_name(config, section.methods[0], section.density[0])
    if section.methods[0] == "rst" or not modes:
        return (name,)
    return f"{name}-{modes[0]}", name
