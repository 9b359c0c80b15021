"""The study `skills`: tasks arrive one after another, and experts are born for what is new."""

from __future__ import annotations
