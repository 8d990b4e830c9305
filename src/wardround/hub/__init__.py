"""The hub: `home` makes and opens what it keeps, `running` builds its parts and runs them, `faces` are console and API."""

from wardround.hub.home import create_home, give_home_keys, known, open_processing, take_authority
from wardround.hub.running import Hub, run_hub

__all__ = ["Hub", "create_home", "give_home_keys", "known", "open_processing", "run_hub", "take_authority"]
