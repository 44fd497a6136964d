"""Pooling plans remembered per calibration."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["PlanCache"]

Plan = TypeVar("Plan")


class PlanCache(Generic[Plan]):
    """The last few plans, or whatever else follows from a calibration, found again by the *values* of the calibration.

    A calibration counts as the same only if every number of it is the same, so a changed pose, augmentation or feature
    size always gets a new plan. The calibration is copied when it is stored: changing a tensor in place afterwards
    cannot make a stored plan stale. Calibrations on the meta device have no values, so none is remembered.

    Args:
        capacity: plans kept; the least recently used one goes first. 0 turns the cache off.
    """

    def __init__(self, capacity: int = 4) -> None:
        self.capacity = capacity
        self._plans: OrderedDict[int, tuple[tuple[object, ...], Tensor, Plan]] = OrderedDict()
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, kind: tuple[object, ...], calibration: tuple[Tensor, ...], build: Callable[[], Plan]) -> Plan:
        """The plan for this calibration, built if it is not known.

        Args:
            kind: hashable facts that decide the plan besides the calibration (feature size, …).
            calibration: tensors of any shape on one device.
            build: makes the plan.
        """
        if self.capacity == 0 or calibration[0].is_meta:  # meta tensors have no values to compare
            return build()
        shapes = tuple(tuple(t.shape) for t in calibration)
        flat = torch.cat([t.detach().reshape(-1) for t in calibration])
        facts = (kind, shapes, flat.device)
        for plan_id, (stored_facts, stored_flat, plan) in self._plans.items():
            if stored_facts == facts and torch.equal(stored_flat, flat):
                self._plans.move_to_end(plan_id)
                return plan
        return self._store(facts, flat, build())

    def clear(self) -> None:
        """Forget all plans."""
        self._plans.clear()

    def _store(self, facts: tuple[object, ...], flat: Tensor, plan: Plan) -> Plan:
        self._plans[self._next_id] = (facts, flat, plan)
        self._next_id += 1
        while len(self._plans) > self.capacity:
            self._plans.popitem(last=False)
        return plan
