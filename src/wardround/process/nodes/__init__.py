"""Nodes: machines that run worker containers for the hub, each reached through its Podman's API."""
