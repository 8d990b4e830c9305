"""From a payload and its format to readings: one name a format, as devices are registered and as content types say it."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Literal

import msgspec

from wardround.collect.devices import fhir, gatt, ghs
from wardround.collect.devices.reading import Decoded
from wardround.collect.devices.senml import decode_pack
from wardround.errors import DecodeError
from wardround.malformed import MALFORMED

Format = Literal["senml", "fhir", "gatt", "ghs"]
FORMATS: tuple[Format, ...] = ("senml", "fhir", "gatt", "ghs")
CONTENT_TYPES: Mapping[str, Format] = {
    "application/senml+json": "senml",
    "application/senml+cbor": "senml",
    "application/fhir+json": "fhir",
    "application/vnd.wardround.gatt+json": "gatt",
    "application/vnd.bluetooth.ghs": "ghs",
}
NOTIFICATIONS_MAX = 1_000


class Notification(msgspec.Struct, frozen=True):
    """A Bluetooth notification as a gateway passes it on: its characteristic, its bytes, and when it came."""

    characteristic: str  # 16-bit UUID, such as "2A37"
    value: str  # hexadecimal
    t: float | None = None  # seconds since 1970; None: now


_notifications = msgspec.json.Decoder(list[Notification] | Notification)


def decode(format_: Format, payload: bytes, source: gatt.Source) -> Decoded:
    """Readings of a payload; what cannot be taken of it is in `refused`.

    Raises:
        DecodeError: nothing of it can be taken.
    """
    if format_ == "senml":
        return Decoded(tuple(decode_pack(payload, now_us=source.now_us)))
    if format_ == "fhir":
        return fhir.decode(payload)
    if format_ == "ghs":
        return ghs.decode(payload, source)
    return _gatt(payload, source)


def format_of(content_type: str) -> Format:
    """The format of a content type.

    Raises:
        DecodeError: "content-type".
    """
    found = CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
    if found is None:
        raise DecodeError("content-type", f"{content_type[:80]!r} is none of {', '.join(CONTENT_TYPES)}")
    return found


def _gatt(payload: bytes, source: gatt.Source) -> Decoded:
    """Notifications in JSON, one or a list: each refused or taken by itself."""
    try:
        found = _notifications.decode(payload)
    except (*MALFORMED, RecursionError) as exc:
        raise DecodeError("malformed-gatt", f"not Bluetooth notifications in JSON: {str(exc)[:120]}") from exc
    parts = found if isinstance(found, list) else [found]
    if not 0 < len(parts) <= NOTIFICATIONS_MAX:
        raise DecodeError("too-large", f"{len(parts)} notifications; 1 to {NOTIFICATIONS_MAX} are taken")
    decoded: list[Decoded] = []
    for part in parts:
        try:
            decoded.append(_notification(part, source))
        except DecodeError as error:
            decoded.append(Decoded(refused=(error,)))
    return Decoded(tuple(r for d in decoded for r in d.readings), tuple(e for d in decoded for e in d.refused))


def _notification(part: Notification, source: gatt.Source) -> Decoded:
    try:
        characteristic, data = int(part.characteristic, 16), binascii.unhexlify(part.value)
    except ValueError as exc:
        raise DecodeError("malformed-gatt", "characteristic and value are hexadecimal") from exc
    if not 0 <= characteristic <= 0xFFFF:
        raise DecodeError("malformed-gatt", f"characteristic {part.characteristic[:40]!r} is no 16-bit UUID")
    if part.t is not None:
        if not 0 <= part.t <= 1e11:
            raise DecodeError("time", f"{part.t:g} s is out of any range")
        source = gatt.Source(round(part.t * 1e6), source.zone, source.user)
    return gatt.decode(characteristic, data, source)
