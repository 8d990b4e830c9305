"""Observations over memory: the same forwarder and intake, with no network between. For the simulation and for tests."""

from __future__ import annotations

from collections.abc import Callable

from wardround.collect.forwarder import Batch, Forwarder
from wardround.collect.intake import ForwardReceipt, Intake
from wardround.trust.consent import ConsentRegister


class MemoryLink:
    """What `carry` drops never arrives; what it gives twice arrives twice."""

    def __init__(self, edge: str, forwarder: Forwarder, intake: Intake, register: ConsentRegister) -> None:
        self._edge, self._forwarder = edge, forwarder
        self._intake, self._register = intake, register

    def step(self, carry: Callable[[], int] = lambda: 1, answer: Callable[[], bool] = lambda: True) -> bool:
        """Send one batch and take its receipt; False when nothing waits.

        `carry()` says how often the batch arrives (0, 1, 2...), `answer()` whether the receipt gets back.
        """
        batch = self._forwarder.next_batch()
        if batch is None:
            return False
        times = carry()
        for _ in range(times):
            receipt = self._deliver(batch)
            if answer():
                self._forwarder.receipted(receipt)
        if times == 0:
            self._forwarder.reset()  # a lost message is a lost connection
        return True

    def _deliver(self, batch: Batch) -> ForwardReceipt:
        self._register.apply(list(batch.consents))
        return self._intake.receive(self._edge, batch.boot, batch.first_seq, batch.observations, batch.gaps)
