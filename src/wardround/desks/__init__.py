"""What people and programs ask of a hub: each desk answers one screen, or the API, from what the hub has, and acts by role."""
