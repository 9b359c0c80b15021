"""Settings of a circuit measurement: defaults that inform, and refusals before anything is loaded."""

import pytest

from crosstune.circuits import CircuitSettings, Form
from crosstune.foundation.errors import SettingsError


def test_pairs_are_normalised_by_task_a_and_averages_by_the_pool():
    settings = CircuitSettings()
    assert settings.forms == (
        Form("directional", "task_a"),
        Form("signed", "pooled"),
        Form("symmetric", "pooled"),
    )
    assert {form.fisher for form in settings.average_forms} == {"pooled"}
    assert not settings.blind


def test_variants_with_a_fisher_of_their_own_keep_it():
    settings = CircuitSettings(variants=("ewc", "kfac", "signed"), fisher="held_out")
    assert settings.forms == (
        Form("ewc", "task_a"),
        Form("kfac", "task_a"),
        Form("signed", "held_out"),
    )
    assert settings.average_forms[0] == Form("ewc", "task_a")


@pytest.mark.parametrize("fisher", ["task_a", "held_out", "leave_one_out"])
def test_averages_that_say_nothing_of_a_are_known(fisher):
    assert CircuitSettings(averages=fisher).blind
    assert not CircuitSettings(averages=fisher, variants=("signed",)).blind


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"variants": ("oriented",)}, "variants"),
        ({"variants": ()}, "variants"),
        ({"variants": ("signed", "signed")}, "variants"),
        ({"blocks": ("q", "mlp")}, "blocks"),
        ({"fisher": "diagonal"}, "fisher"),
        ({"averages": "mean"}, "averages"),
        ({"damping": "ridge"}, "damping"),
        ({"damping_share": -0.1}, "damping_share"),
        ({"damping_share": float("nan")}, "damping_share"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"layers": (-1,)}, "layers"),
        ({"heads": ()}, "heads"),
        ({"heads": 3}, "heads"),
        ({"layers": (1.5,)}, "layers"),
        ({"variants": ("ewc",), "fisher": "pooled"}, "fisher"),
        ({"length": 1}, "length"),
        ({"rows": 0}, "rows"),
        ({"budget_gib": 0.0}, "budget_gib"),
        ({"level": 1.0}, "level"),
        ({"computation_device": "tpu"}, "computation_device"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(options, argument):
    with pytest.raises(SettingsError, match=argument):
        CircuitSettings(**options)
