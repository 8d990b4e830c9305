"""Wardround: federated learning over the Internet of Medical Things."""

from importlib.metadata import version

__version__ = version("wardround")
