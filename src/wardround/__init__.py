"""Wardround: federated learning over the Internet of Medical Things."""

import os
import sys

grpc_came_first = "grpc" in sys.modules  # then what follows comes too late, and no listener is opened
# Read once, when grpc is imported: TLS 1.3 alone (see trust/channel.py), and no log lines of its own.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__version__ = "0.1.0"
