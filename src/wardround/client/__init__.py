"""A typed client of a hub's API, for programs: see `HubClient`, and docs/client.md for examples that run."""

from wardround.client.calls import HubClient
from wardround.client.events import Event
from wardround.client.refusals import ApiRefused, HubUnreachable
from wardround.client.wire import Wire

__all__ = ["ApiRefused", "Event", "HubClient", "HubUnreachable", "Wire"]
