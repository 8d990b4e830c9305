"""One file per device family: payload in, readings out. Pure functions, no I/O."""
