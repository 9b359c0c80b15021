"""The environment names what decides bit-equality and starts nothing."""

from __future__ import annotations

import json
import subprocess
import sys

from crosstune.foundation.records.environment import arithmetic, describe_environment


def test_versions_and_hardware_are_plain_values():
    facts = describe_environment()
    assert facts["packages"]["pyarrow"]
    assert facts["cores"] >= 1
    assert json.loads(json.dumps(facts)) == facts


def test_the_line_of_an_arithmetic_changes_with_what_changes_bits(monkeypatch):
    import torch

    here = arithmetic(describe_environment())
    assert torch.backends.cpu.get_cpu_capability() in here and torch.__version__ in here
    monkeypatch.setenv("MKL_CBWR", "AVX,STRICT")
    other = arithmetic(describe_environment())
    assert "MKL_CBWR=AVX,STRICT" in other and other != here
    assert arithmetic({**describe_environment(), "threads": 77}) != other
    assert arithmetic({"capability": None}) == "", "torch was not loaded"


def test_describing_does_not_load_torch():
    code = (
        "import sys; from crosstune.foundation.records.environment import describe_environment;"
        "assert describe_environment()['accelerators'] is None; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
