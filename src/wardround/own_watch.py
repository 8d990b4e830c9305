"""The watch of an edge's own training in studies whose hub sees no single update: from a finished training to what is said of it.

One OwnWatch a study, on the edge's disk before its word is said, so that a restart goes on with the same past and thresholds.
What it looks at stays at the edge; what leaves is the report of learn/own_report.py, and whether the edge sits the round out.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable

import numpy as np
import structlog

from wardround.learn.blobs import Blobs
from wardround.learn.messages import Done, Order
from wardround.learn.models import MemoryTensors, Parameters, decode_model
from wardround.learn.own_report import OwnReport, SignedReport, coarse, signed_part
from wardround.learn.privacy.modes import decode_mask_settings
from wardround.learn.study import decode_training
from wardround.learn.tried import AFTER, BEFORE
from wardround.row_counts import RowCounts, decode_rows
from wardround.watch.detectors.seen import EdgeSeen
from wardround.watch.detectors.updates import Sketcher
from wardround.watch.own_watch import Looked, OwnWatch, own_signs

log = structlog.get_logger(__name__)
SHIPPED = {name: sign.default for name, sign in own_signs().items()}


class OwnWatches:
    """Of one edge. Safe to use from several threads."""

    def __init__(self, edge: str, blobs: Blobs, sign: Callable[[bytes], bytes]) -> None:
        """`sign` puts the edge's name to a report."""
        self._edge, self._blobs, self._sign = edge, blobs, sign
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, OwnWatch]] = {}  # by study: its configuration, and its watch

    def look(self, order: Order, done: Done) -> SignedReport | None:
        """What the edge says of a finished training before it masks it; None where the order asks for nothing.

        Raises:
            StorageFull: what was seen could not be kept, so nothing is said.
        """
        budget = wanted(order)
        if not budget:
            return None
        with self._lock:
            watch = self._watch(order, budget)
            seen, finite = self.seen(order, done)
            looked = watch.look(order.round_number, seen, finite=finite)
            self._blobs.write(f"{order.study}.watch", watch.state())
        if looked.found:
            log.warning(
                "this edge's own screens have found something",
                edge_id=self._edge,
                study=order.study,
                round_number=order.round_number,
                screens=list(looked.found),
                sits_out=looked.sits_out,
            )
        report = report_of(order, looked)
        return SignedReport(report, self._sign(signed_part(report)))

    def seen(self, order: Order, done: Done) -> tuple[EdgeSeen, bool]:
        """A training as its screens see it, and whether every value of its update is a number."""
        update = decode_model(done.data)
        finite = all(bool(np.isfinite(t).all()) for t in update.values() if t.dtype.kind == "f")
        counts = _counts(done.rows)
        told = done.metrics
        return EdgeSeen(
            examples=done.examples,
            loss=told.get("loss_before", told.get("loss")),
            trained_s=told.get("duration_s"),
            inputs=counts.inputs if counts is not None else None,
            confidence=counts.confidence if counts is not None else None,
            update=Sketcher(f"{self._edge}/{order.study}").sketch(MemoryTensors(_floats(update))) if finite else None,
            tried_before=told.get(BEFORE),
            tried_after=told.get(AFTER),
        ), finite

    def _watch(self, order: Order, budget: float) -> OwnWatch:
        """The study's: as it is in memory, as it is on disk, or a new one where the study is another."""
        configuration = hashlib.sha256(order.settings).hexdigest()[:16]
        known = self._known.get(order.study)
        if known is not None and known[0] == configuration:
            return known[1]
        watch = OwnWatch(configuration, budget_per_1000=budget)
        try:
            if not watch.restore(self._blobs.read(f"{order.study}.watch")):
                log.info(
                    "the watch of a study begins anew", study=order.study, reason="another configuration, or another version"
                )
        except FileNotFoundError:
            pass
        self._known[order.study] = configuration, watch
        return watch


def wanted(order: Order) -> float:
    """The budget of false alarms in 1,000 rounds by which an order asks the edge to watch itself; 0: it does not ask."""
    if not order.masks or order.task != "train":
        return 0.0
    masks = decode_mask_settings(order.masks)
    noisy = (
        masks.noise > 0 or decode_training(order.settings).learner.dp_sgd.on
    )  # then nothing without noise may leave, whoever asks
    return masks.false_alarms if not noisy and math.isfinite(masks.false_alarms) and masks.false_alarms > 0 else 0.0


def report_of(order: Order, looked: Looked) -> OwnReport:
    """What leaves of what was seen."""
    screens = tuple(coarse(name, score, limit, SHIPPED[name]) for name, (score, limit) in sorted(looked.scores.items()))
    return OwnReport(order.study, order.round_number, order.attempt, screens, looked.sits_out)


def _counts(rows: bytes) -> RowCounts | None:
    return decode_rows(rows) if rows else None


def _floats(update: Parameters) -> Parameters:
    return {name: tensor for name, tensor in update.items() if tensor.dtype.kind == "f"}
