"""The deny-list: who gets no answer although the certificate has not ended.

Names of edges that were shut out whole, and serials of single certificates. Whoever answers edges holds it in memory; the hub
reads it from its store and sends it down to edges that pass models on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DenyList:
    """Names of edges, and serials of certificates in hexadecimal."""

    names: frozenset[str] = frozenset()
    serials: frozenset[str] = frozenset()

    def holds(self, name: str, serial: str) -> bool:
        """Whether this edge, or this one certificate of it, is shut out."""
        return name in self.names or serial in self.serials
