"""Equal content, equal fingerprint; different content, different fingerprint."""

from __future__ import annotations

import hashlib

import pytest

from crosstune.foundation.storage import fingerprint, fingerprint_file


def test_key_order_does_not_matter_and_values_do():
    assert fingerprint({"a": 1, "b": [1.5]}) == fingerprint({"b": [1.5], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": float("nan")}) == fingerprint({"a": float("nan")})


def test_what_has_no_canonical_form_is_refused():
    with pytest.raises(TypeError, match="object"):
        fingerprint(object())


def test_a_file_is_hashed_by_its_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 1000)
    expected = hashlib.sha256(b"abc" * 1000).hexdigest()[:16]
    assert fingerprint_file(tmp_path / "f") == expected
