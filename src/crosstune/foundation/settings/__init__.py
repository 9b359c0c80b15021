"""Settings are values: frozen dataclasses that go to YAML and come back whole.

A settings class lives next to what it configures, in a module that imports no heavy library, and documents each
field by the string under it (units included); the command line reads its help from there.
"""

from __future__ import annotations

from crosstune.foundation.settings.options import differences
from crosstune.foundation.settings.yaml import from_mapping, from_yaml, to_yaml

__all__ = ["differences", "from_mapping", "from_yaml", "to_yaml"]
