"""The hub over HTTP, version 1: what the console and the command line can do, for programs. `docs/api.md` shows it in use.

`app.py` puts it together, `routes.py` is what there is, `resources.py` what goes over the wire, `callers.py` who may call.
"""
