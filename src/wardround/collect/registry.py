"""The devices an edge knows: whose they are, and the secret each one signs in with.

`devices.toml` in the edge's home, mode 0600, holds patient identifiers: it never leaves the edge.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from wardround.collect.devices.decoders import Format
from wardround.collect.devices.gatt import USER_UNKNOWN
from wardround.errors import SettingsError, TrustError
from wardround.trust.certificates import write_private
from wardround.trust.names import check_name

MOSQUITTO_ITERATIONS = 101  # its own default
_SCRYPT = {"n": 2**12, "r": 8, "p": 1}  # a device's secret has 128 random bits; the hash guards a stolen file


@dataclass(frozen=True, slots=True)
class Device:
    """A device and its patient."""

    device_id: str
    patient: str
    salt: str
    secret_hash: str
    format: Format = "senml"  # of what it sends
    time_zone: str = ""  # of its clock, where its times have none (IANA, such as "Europe/Vienna")
    user: int | None = None  # the patient's number on a device that several people use
    every_s: float = 0.0  # how often it sends a value; 0: as the code table says
    mosquitto_hash: str = ""  # of its secret, as Mosquitto's password file has it
    revoked: bool = False  # signs in no more, until it is registered anew

    def zone(self) -> ZoneInfo | None:
        """The zone of its clock; None when it is not known."""
        return ZoneInfo(self.time_zone) if self.time_zone else None


class DeviceRegistry:
    """devices.toml, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = -1
        self._devices: dict[str, Device] = {}
        self._checked: dict[str, str] = {}  # device -> SHA-256 of a secret that fitted, so that scrypt runs once

    def add(
        self,
        device_id: str,
        patient: str,
        *,
        format_: Format = "senml",
        time_zone: str = "",
        user: int | None = None,
        every_s: float = 0.0,
    ) -> str:
        """Register a device, or give it a new secret; the secret, shown once.

        Raises:
            TrustError: the name, the patient, the time zone or the user is not allowed.
        """
        check_name(device_id, what="device name")
        if not patient or any(c in patient for c in '"\\\n\r') or len(patient) > 120:
            raise TrustError(f"patient {patient!r} is not allowed", remedy="use up to 120 characters without quotes or line ends")
        if time_zone and time_zone not in available_timezones():
            raise TrustError(f"time zone {time_zone[:60]!r} is not known", remedy='use an IANA name, such as "Europe/Vienna"')
        if user is not None and not 0 <= user < USER_UNKNOWN:
            raise TrustError(f"user {user} is not allowed", remedy="a device numbers its users from 0 to 254")
        if not 0 <= every_s <= 86_400:
            raise TrustError(f"{every_s:g} s between values is not allowed", remedy="say 0 (as the code table has it) to 86400")
        secret, salt = secrets.token_urlsafe(16), secrets.token_hex(8)
        self._reload()
        self._devices[device_id] = Device(
            device_id,
            patient,
            salt,
            _hash(secret, salt),
            format_,
            time_zone,
            user,
            every_s,
            mosquitto_hash(secret, secrets.token_bytes(12)),
        )
        self._write()
        return secret

    def remove_patient(self, patient: str) -> list[str]:
        """Remove the devices of a patient; their names."""
        self._reload()
        gone = [d.device_id for d in self._devices.values() if d.patient == patient]
        for device in gone:
            del self._devices[device]
        if gone:
            self._write()
        return gone

    def revoke(self, device_id: str) -> bool:
        """Shut a device out; False when none is called so. A new secret (`add`) lets it in again."""
        self._reload()
        device = self._devices.get(device_id)
        if device is None:
            return False
        self._devices[device_id] = replace(device, revoked=True)
        self._write()
        return True

    def get(self, device_id: str) -> Device | None:
        """A device by its name; None when there is none, or it is revoked."""
        self._reload()
        device = self._devices.get(device_id)
        return None if device is None or device.revoked else device

    def secret_hash(self, device_id: str) -> str:
        """What its present secret is kept as; empty when it may not sign in. It changes with the secret."""
        device = self.get(device_id)
        return device.secret_hash if device is not None else ""

    def all(self) -> list[Device]:
        """Every device, revoked ones too."""
        self._reload()
        return list(self._devices.values())

    def check(self, device_id: str, secret: str) -> bool:
        """Whether a device may sign in with this secret."""
        device = self.get(device_id)
        if device is None:
            return False
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if hmac.compare_digest(self._checked.get(device_id, ""), digest):
            return True
        if not hmac.compare_digest(_hash(secret, device.salt), device.secret_hash):
            return False
        self._checked[device_id] = digest
        return True

    def _reload(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._changed:
            return
        try:
            data = tomllib.loads(self._path.read_text(encoding="utf-8"))
            self._devices = {name: msgspec.convert({"device_id": name, **row}, Device) for name, row in data.items()}
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, TypeError) as exc:
            raise SettingsError(
                f"{self._path} cannot be read: {exc}", remedy="add devices with `wardround edge device`, not by hand"
            ) from exc
        self._changed = changed
        self._checked.clear()

    def _write(self) -> None:
        known = sorted(self._devices.values(), key=lambda d: d.device_id)
        write_private(self._path, "".join(_section(d) for d in known).encode())


def _section(device: Device) -> str:
    """A device in TOML; what stands at its default is left out."""
    lines = [f"[{device.device_id}]", f'patient = "{device.patient}"']
    lines += [f'salt = "{device.salt}"', f'secret_hash = "{device.secret_hash}"']
    lines += [f"every_s = {float(device.every_s)}"] if device.every_s else []
    lines += [f'mosquitto_hash = "{device.mosquitto_hash}"'] if device.mosquitto_hash else []
    lines += [f'format = "{device.format}"'] if device.format != "senml" else []
    lines += [f'time_zone = "{device.time_zone}"'] if device.time_zone else []
    lines += [f"user = {device.user}"] if device.user is not None else []
    lines += ["revoked = true"] if device.revoked else []
    return "\n".join(lines) + "\n\n"


def mosquitto_hash(secret: str, salt: bytes) -> str:
    """A secret as Mosquitto's password file has it: PBKDF2-HMAC-SHA512 (mosquitto_passwd, format 7)."""
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, MOSQUITTO_ITERATIONS)
    return f"$7${MOSQUITTO_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _hash(secret: str, salt: str) -> str:
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), **_SCRYPT).hex()
