"""Live drills at a hub: a fault ordered to real edges over real links, in a study that is a sandbox (docs/drill.md)."""
