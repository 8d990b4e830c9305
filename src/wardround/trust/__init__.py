"""Below every step: who is who, what is allowed, and what was done."""
