"""Tables of the benchmarks on rows that are made by hand: what they must not claim."""

import math

from benchmarks.compression_tables import shifts
from benchmarks.layerwise_tables import paired
from benchmarks.pruned_quantised_table import FORMS, NETWORKS, table


def row(network: str, form: str, robust: str, constant: int | None) -> dict[str, object]:
    return {
        "data": "sst2", "seed": 0, "network": network, "form": form, "clean": "1101",
        "robust": robust, "constant": constant, "bytes": 2000,
    }  # fmt: skip


def test_networks_that_all_answer_alike_have_a_table_and_a_mark() -> None:
    found = [row(network, form, "1001", 1) for network in NETWORKS for form in FORMS]
    lines = table(found, "sst2").splitlines()
    assert "| dense | float32 | 2.0 | 75.0 | 50.0 (one class for all) |  |  |" in lines
    assert len([line for line in lines if "none: the same on every example" in line]) == 11
    assert not lines[-1].startswith("A difference would have been shown")
    mixed = table([row("dense", "float32", "1001", None), row("dense", "int8", "1000", 1)], "sst2")
    assert "| dense | float32 | 2.0 | 75.0 | 50.0 |  |  |" in mixed


def test_three_networks_that_change_alike_are_no_proof() -> None:
    """All three lose one example of 100: the spread is zero, and 2^(1 − 3) is the least p-value."""
    changes = [
        {"accuracy": {"dense": 0.9 + k / 100, "compressed": 0.89 + k / 100, "unit": "share",
                      "better": 1}}
        for k in range(3)
    ]  # fmt: skip
    rows = [
        {"seed": k, "method": "ours", "level": 0.5, "changes": one} for k, one in enumerate(changes)
    ]
    (found,) = shifts(rows)
    assert found.adjusted == 0.25
    assert not found.shown
    assert math.isnan(found.half)


def test_every_density_is_compared_with_the_dense_network_of_the_same_seed() -> None:
    rows = [
        {"case": "ecg200", "seed": seed, "method": method, "density": density,
         "robust": 80.0 + seed - less, "clean": 90.0}
        for seed in range(3)
        for method, density, less in (("dense", 1.0, 0), ("rigl", 0.1, 2 + seed), ("rigl", 0.02, 9))
    ]  # fmt: skip
    lines = paired(rows, "ecg200", "dense").splitlines()[2:]
    # the differences are 2, 3 and 4: half of the interval is t(2) · 1 / √3 = 4.303 / 1.732
    assert lines == [
        "| rigl | 0.1 | 3 | -3.0 ± 2.5 | +0.0 ± 0.0 |",
        "| rigl | 0.02 | 3 | -9.0 ± 0.0 | +0.0 ± 0.0 |",
    ]


def test_one_network_has_an_interval_over_its_examples() -> None:
    """10 of 100 examples fall, and 2 others stand: p = 2 P(Bin(12, ½) ≤ 2) = 158/4096 = 0.04."""
    dense = {"case": "mnist", "seed": 0, "method": "dense", "density": 1.0, "clean": 90.0}
    rigl = {**dense, "method": "rigl", "density": 0.1, "clean": 88.0}
    rows = [
        dense | {"stood": "1" * 80 + "0" * 20},
        rigl | {"stood": "0" * 10 + "1" * 72 + "0" * 18},
    ]
    (line,) = paired(rows, "mnist", "dense").splitlines()[2:]
    # the standard deviation is √(0.12 − 0.0064)/10 = 3.4 points
    assert line == "| rigl | 0.1 | 1 | -8.0 (-15.0 to -2.0, p = 0.04) | -2.0 |"
