"""Observations to tables: pure functions on NumPy and SciPy alone, so that edge and hub compute the same from one code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from wardround.process.transforms.activity import ACTIVITY
from wardround.process.transforms.beats import BEATS
from wardround.process.transforms.task import Task

__all__ = ["TASKS", "Task"]

TASKS: Mapping[str, Task] = MappingProxyType({t.name: t for t in (ACTIVITY, BEATS)})
