"""Settings: one TOML file per program, checked once at the door. No part reads settings by itself.

An unknown key is an error that names the nearest known one; secrets never stand in these files.
Each field has its line in docs/settings.md.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from wardround.errors import SettingsError

T = TypeVar("T", bound="Settings")
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"  # names become topics, certificate names and files


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every settings record."""


class LogSettings(Settings, frozen=True, kw_only=True):
    """Where a program's log lines go, and how they look; the audit log is another thing."""

    file: str = ""  # from the home, or absolute; empty: standard error
    json: bool = False  # an object a line, for programs that read it
    bytes_max: int = 10_000_000  # then it is NAME.1, and a new one begins
    files_kept: int = 5  # older ones, beside it

    def __post_init__(self) -> None:
        if self.bytes_max < 10_000 or not 0 <= self.files_kept <= 1_000:
            raise ValueError("log.bytes_max is 10000 at least, and log.files_kept between 0 and 1000")


class SpoolSettings(Settings, frozen=True, kw_only=True):
    """How an edge keeps observations until the hub has them."""

    bytes_max: int = 2_000_000_000
    when_full: typing.Literal["refuse", "shed"] = "refuse"  # devices keep what they have; or the oldest waveforms go
    alarm_reserve_bytes: int = 16_000_000  # beyond bytes_max, for alarms alone
    disk_reserve_bytes: int = 200_000_000  # always left free on the disk
    ballast_bytes: int = 8_000_000  # held in a file that is given up when the disk is full: to forget takes room too
    commit_interval_s: float = 0.1  # group commit: the longest a device waits for its receipt
    commit_observations_max: int = 500
    file_bytes_max: int = 64_000_000  # a spool file is unlinked once the hub has all of it


class MqttSettings(Settings, frozen=True, kw_only=True):
    """Where devices reach the edge."""

    host: str = "127.0.0.1"
    port: int = 8883
    broker: typing.Literal["embedded", "mosquitto", "external"] = "embedded"
    queue_messages_max: int = 2_000  # beyond it a message is not acknowledged, and the device sends it again


class LinkSettings(Settings, frozen=True, kw_only=True):
    """What observations may take of the network between edge and hub."""

    bytes_per_s_max: int = 0  # 0: all there is
    schedule: dict[str, int] = {}  # "22:00-06:00" = bytes a second, instead of bytes_per_s_max; the first that holds counts
    timezone: str = "UTC"  # whose clocks the schedule means


class HttpsSettings(Settings, frozen=True, kw_only=True):
    """Where devices that speak no MQTT reach the edge."""

    host: str = ""  # empty: no such listener
    port: int = 8443
    body_bytes_max: int = 1_000_000  # of one message
    connections_max: int = 200


class EdgeRelaySettings(Settings, frozen=True, kw_only=True):
    """Where an edge passes models on to other edges; an empty host: it does not."""

    host: str = ""  # what other edges connect to; it must stand in this edge's listener certificate
    port: int = 7445
    models_max: int = 4  # kept to be passed on


class ScheduleSettings(Settings, frozen=True, kw_only=True):
    """When an edge may train: what a study asks for, or what an edge allows. A default asks for nothing."""

    windows: tuple[str, ...] = ()  # "22:00-06:00", "sat,sun 00:00-24:00"; none: at any time
    timezone: str = "UTC"  # whose clocks the windows mean, by IANA name
    charging: bool = False  # only on mains
    battery_min: float = 0.0  # per cent; a machine without a battery has enough
    metered: bool = True  # also over a network that costs by the byte
    signal_dbm_min: float = 0.0  # of Wi-Fi: -67 is good; a wire always is; 0: not asked
    load_max: float = 0.0  # share of the processors' time that others than training take; 0: not asked


ADVICE = "joint-advisory"  # the kind of alert that no response may be about


class ResponseSettings(Settings, frozen=True, kw_only=True):
    """One way to respond to an alert by itself (watch/respond.py): whether, to which kinds, and how often at most."""

    mode: typing.Literal["off", "dry-run", "act"] = "dry-run"  # dry-run: say on the alert what would be done
    kinds: tuple[str, ...] = ()  # of alerts
    limit: int = 1  # at most so many in any `limit_rounds` rounds, and in any `limit_hours` hours, of one study
    limit_rounds: int = 30
    limit_hours: float = 24.0

    def __post_init__(self) -> None:
        if ADVICE in self.kinds:
            raise ValueError(f"kinds: {ADVICE} is advice of joint detectors, and nothing is done about it")


class QuarantineResponse(ResponseSettings, frozen=True, kw_only=True):
    """Set an edge aside: weight 0, still asked and scored."""

    kinds: tuple[str, ...] = ("edge-loss", "input-dead")
    limit: int = 3
    rounds: int = 30  # that it holds for
    share_max: float = 0.25  # of a study's edges set aside at once, whoever did it


class RollbackResponse(ResponseSettings, frozen=True, kw_only=True):
    """Go back to the newest model that has passed the gates."""

    kinds: tuple[str, ...] = ("model-diverged",)


class PauseResponse(ResponseSettings, frozen=True, kw_only=True):
    """Begin no new round until a person says so. Where a kind stands at several responses the first that is allowed is taken:
    rollback, quarantine, retrain, recalibrate, pause."""

    kinds: tuple[str, ...] = ("model-diverged",)


class RetrainResponse(ResponseSettings, frozen=True, kw_only=True):
    """Give a study more rounds, so that it learns what has changed."""

    kinds: tuple[str, ...] = ("input-drift", "confidence-low", "federation-shift")
    limit_rounds: int = 100
    limit_hours: float = 168.0
    rounds: int = 10
    share_min: float = 0.1  # of the study's edges that show it; below, it is an edge's own matter


class RecalibrateResponse(ResponseSettings, frozen=True, kw_only=True):
    """Let the detectors of a study learn anew what is usual."""

    kinds: tuple[str, ...] = ("federation-shift",)
    limit_rounds: int = 200
    limit_hours: float = 168.0


class RespondSettings(Settings, frozen=True, kw_only=True):
    """What Wardround does about alerts by itself, in one study."""

    quarantine: QuarantineResponse = QuarantineResponse()
    rollback: RollbackResponse = RollbackResponse()
    pause: PauseResponse = PauseResponse()
    retrain: RetrainResponse = RetrainResponse()
    recalibrate: RecalibrateResponse = RecalibrateResponse()


class FlowerSettings(Settings, frozen=True, kw_only=True):
    """Flower apps at an edge; empty: it runs none."""

    python: str = ""  # the interpreter of the environment where flwr is installed
    apps: str = ""  # a folder of apps, each in a folder of its own name; what stands here may be run
    node_config: dict[str, bool | int | float | str] = {}  # what apps find in Context.node_config


class BedsideSettings(Settings, frozen=True, kw_only=True):
    """How an edge watches its patients."""

    models: bool = True  # also by what the models that this edge holds find in live windows
    trends: bool = False  # also what was never seen of a vital sign in a patient, hour by hour: a notice of low priority
    watch: bool = True  # vital signs, devices, certificates; alerts stay at the edge unless `notify` says where to
    acknowledge_from_hub: bool = False  # people at the hub may say that they are on one: then nobody else is told of it


class NotifySettings(Settings, frozen=True, kw_only=True):
    """One way to people: a `[[notify]]` table of hub.toml or edge.toml."""

    kind: typing.Literal["webhook", "smtp", "alertmanager", "apprise"]
    url: str = ""  # without a password
    url_file: str = ""  # the address in a file of mode 0600, where it is a secret itself
    name: str = ""  # how it is called in `wardround alert sinks`; empty: its kind
    priority_min: typing.Literal["high", "medium", "low", "info"] = "medium"
    level: int = 0  # of escalation: 1 is told what nobody has acknowledged in time
    group_s: float = 10.0  # how long what is not urgent waits for others of its kind
    refresh_s: float = 0.0  # a sign of life so often, for a dead man's switch; 0: none, but 60 for alertmanager
    sender: str = ""  # smtp
    to: tuple[str, ...] = ()  # smtp
    password_file: str = ""  # smtp: of mode 0600


class AtRestSettings(Settings, frozen=True, kw_only=True):
    """Encryption of patients' values on this machine's disk (trust/at_rest.py)."""

    kek: str = ""  # where the key-encryption key comes from: file:PATH, credential:NAME, command:PROGRAM; empty: not encrypted


class EdgePrivacySettings(Settings, frozen=True, kw_only=True):
    """What this edge gives its updates to, whatever its hub asks."""

    blind_only: bool = False  # under masks alone: orders of clear studies, surveys and Flower runs are declined
    sum_edges_min: int = 3  # edges whose sum the hub may see, at least
    patient_epsilon_max: float = 0.0  # what all studies together may spend of one patient; 0: there is no bound
    patient_delta: float = 1e-6


class EdgeLearningSettings(Settings, frozen=True, kw_only=True):
    """What this edge lets its hub ask of its training worker beside studies."""

    drills: bool = False  # take part in live drills: examples are made up, and what goes wrong touches the drill's study alone


class EdgeSettings(Settings, frozen=True, kw_only=True):
    """edge.toml: one edge gateway."""

    name: str
    hub_host: str
    hub_port: int
    mqtt: MqttSettings = MqttSettings()
    https: HttpsSettings = HttpsSettings()
    spool: SpoolSettings = SpoolSettings()
    at_rest: AtRestSettings = AtRestSettings()
    link: LinkSettings = LinkSettings()
    relay: EdgeRelaySettings = EdgeRelaySettings()
    schedule: ScheduleSettings = ScheduleSettings()  # this edge's own: an order that it forbids is refused, at no cost
    privacy: EdgePrivacySettings = EdgePrivacySettings()
    learning: EdgeLearningSettings = EdgeLearningSettings()
    flower: FlowerSettings = FlowerSettings()
    bedside: BedsideSettings = BedsideSettings()
    log: LogSettings = LogSettings()
    notify: tuple[NotifySettings, ...] = ()  # who is told of this edge's own alerts
    public_url: str = ""  # what they open to see more
    metered_interfaces: tuple[str, ...] = ("wwan*", "ppp*", "rmnet*")  # patterns of networks that cost by the byte
    retention_days: float = 30.0  # how long data stays on the edge for training
    simulated: bool = False  # every observation is flagged, and people see it
    training_memory_bytes_max: int = 4_000_000_000
    training_deadline_s: float = 600.0
    training_cpu_share: float = 1.0  # of the cores; whole ones, at least one


class ListenSettings(Settings, frozen=True, kw_only=True):
    """One listener of the hub."""

    host: str = "127.0.0.1"
    port: int = 0


class OidcSettings(Settings, frozen=True, kw_only=True):
    """Signing in to the console at an OpenID Connect provider; without an issuer it is off."""

    issuer: str = ""
    client_id: str = ""
    client_secret_file: str = ""  # mode 0600, from the home; empty: a public client, with PKCE alone
    scopes: str = "openid profile"
    name_claim: str = "preferred_username"
    role_claim: str = "groups"  # with dots: a claim within another, as Keycloak's realm_access.roles
    roles: dict[str, str] = {}  # value of the claim -> role; the first that fits, as they stand in the file
    label: str = "Sign in with your hospital account"
    ca_file: str = ""  # PEM, from the home; empty: the system's authorities


class ConsoleSettings(ListenSettings, frozen=True, kw_only=True):
    """The web console."""

    port: int = 7480
    second_factor: typing.Literal["optional", "required"] = "optional"  # required: nobody comes in without a code
    session_hours: float = 12.0  # a shift; then everybody signs in again
    idle_minutes: float = 60.0  # without a key or a touch; 0: an open page may stay, for a screen on the wall
    local_sign_in: bool = True  # false: by the provider alone
    oidc: OidcSettings = OidcSettings()


class GrpcSettings(ListenSettings, frozen=True, kw_only=True):
    """Where edges reach the hub. A class of its own, so that a table with a host alone keeps the port."""

    port: int = 7443


class EnrolmentSettings(ListenSettings, frozen=True, kw_only=True):
    """Where edges join."""

    port: int = 7444


class RetentionSettings(Settings, frozen=True, kw_only=True):
    """Days that data stay in the lake, by category; 0: for ever."""

    raw_days: int = 0
    clean_days: int = 0
    features_days: int = 0


class ProcessingSettings(Settings, frozen=True, kw_only=True):
    """How the hub prepares data."""

    workers: int = 2  # on the hub itself, when there is no node
    memory_per_worker_bytes: int = 1_500_000_000
    interval_s: float = 10.0  # between runs of a job
    jobs_off: list[str] = []
    lake: str = ""  # empty: a folder in the hub's home
    lake_options: dict[str, str] = {}
    lake_commit_interval_s: float = 0.5
    lake_commit_rows_max: int = 50_000
    lake_commits_an_hour: int = 720  # small ones, in a long run
    retention: RetentionSettings = RetentionSettings()

    def __post_init__(self) -> None:
        if self.lake_commits_an_hour < 1:
            raise ValueError("processing.lake_commits_an_hour is at least 1")


class StoreSettings(Settings, frozen=True, kw_only=True):
    """Where the hub's records are."""

    url: str = ""  # postgresql://USER@HOST/DATABASE, without a password; empty: hub.sqlite in the hub's home
    password_file: str = ""  # of mode 0600; a socket of this machine and a client's certificate need none
    lease_s: float = 10.0  # how long a hub that has gone holds others back; it ends when it cannot renew it for so long

    def __post_init__(self) -> None:
        if not 1.0 <= self.lease_s <= 86_400.0:
            raise ValueError("store.lease_s is between 1 and 86400 seconds")


class TracingSettings(Settings, frozen=True, kw_only=True):
    """Where rounds go as OpenTelemetry traces."""

    endpoint: str = ""  # of a collector, for OTLP over HTTP: http://127.0.0.1:4318/v1/traces; empty: nowhere


class BackupSettings(Settings, frozen=True, kw_only=True):
    """When a hub backs itself up, and where to."""

    folder: str = ""  # absolute, on another disk; empty: never by itself
    every_h: float = 24.0
    keep: int = 7  # older ones are removed

    def __post_init__(self) -> None:
        if self.every_h <= 0 or self.keep < 1:
            raise ValueError("backup.every_h is above 0, and backup.keep at least 1")


class HubSettings(Settings, frozen=True, kw_only=True):
    """hub.toml: the central hub."""

    name: str = "hub"
    site: str = "Wardround"
    simulated: bool = False
    grpc: GrpcSettings = GrpcSettings()
    enrolment: EnrolmentSettings = EnrolmentSettings()
    console: ConsoleSettings = ConsoleSettings()
    metrics: ListenSettings = ListenSettings()  # for Prometheus; port 0: nobody asks
    public_host: str = "127.0.0.1"  # what edges connect to; it stands in the hub's certificate
    certificate_hours: float = 24.0  # life of an edge's certificate; the edge renews it at two thirds
    processing: ProcessingSettings = ProcessingSettings()
    heartbeat_s: float = 2.0  # how often edges report; they are called silent after three missed ones
    public_url: str = ""  # of the console, for people who are told of an alert
    notify: tuple[NotifySettings, ...] = ()
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()
    at_rest: AtRestSettings = AtRestSettings()
    backup: BackupSettings = BackupSettings()
    store: StoreSettings = StoreSettings()


def load_settings(path: Path, kind: type[T]) -> T:
    """Read and check a TOML file.

    Raises:
        SettingsError: the file is missing, is not TOML, has an unknown key, or a value does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        made = "`wardround edge join -` makes one" if kind is EdgeSettings else "`wardround hub init` makes one"
        raise SettingsError(f"{path} does not exist", remedy=f"give the right path; {made}") from exc
    except OSError as exc:
        raise SettingsError(f"{path} cannot be read: {exc.strerror}", remedy="check the path and its permissions") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path} is not UTF-8 text", remedy="save the file as UTF-8") from exc
    return parse_settings(text, kind, where=str(path))


def parse_settings(text: str, kind: type[T], *, where: str) -> T:
    """Check TOML text; `where` is how errors name its source.

    Raises:
        SettingsError: as load_settings.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{where} is not valid TOML: {exc}", remedy="correct that line") from exc
    unknown = _unknown_key(data, kind, "")
    if unknown is not None:
        key, known = unknown
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.5)
        remedy = f"did you mean `{near[0]}`?" if near else f"known keys here: {', '.join(sorted(known))}"
        raise SettingsError(f"{where}: unknown key `{key}`", remedy=remedy)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as exc:
        raise SettingsError(f"{where}: {exc}", remedy="docs/settings.md lists every key with its type and range") from exc


def _unknown_key(data: dict[str, Any], kind: type[Any], prefix: str) -> tuple[str, list[str]] | None:
    """The first key of `data` that `kind` does not have, depth first, with the keys it does have."""
    hints = typing.get_type_hints(kind)
    known = {f.encode_name: hints[f.name] for f in msgspec.structs.fields(kind)}
    for key, value in data.items():
        if key not in known:
            return prefix + key, list(known)
        inner = _struct_of(known[key])
        for part in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(part, dict):
                found = _unknown_key(part, inner, f"{prefix}{key}.")
                if found is not None:
                    return found
    return None


def _struct_of(hint: Any) -> type[Any] | None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((s for s in map(_struct_of, typing.get_args(hint)) if s is not None), None)
    if typing.get_origin(hint) in (tuple, list):
        return _struct_of(typing.get_args(hint)[0])
    return None
