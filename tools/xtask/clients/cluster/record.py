"""What clients saw, as `seawall-sim check` reads it.

Every client has a number of its own and one operation at a time; every write
has a value of its own. Errors are sorted by what they say of the outcome:
`refused` was surely not executed, anything else may have been.
"""

import collections
import itertools
import json
import threading
import time

from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError

UNKNOWN = "the outcome is unknown"


class Record:
    """Lines of all clients, and their errors by kind and node."""

    def __init__(self, path):
        self.file = open(path, "w", buffering=1 << 20)
        self.lock = threading.Lock()
        self.errors = collections.Counter()
        self.operations = 0

    def line(self, **fields):
        text = json.dumps(fields)
        with self.lock:
            self.operations += 1
            self.file.write(text + "\n")

    def healed(self):
        self.line(kind="healed", at_ns=time.monotonic_ns())
        self.operations -= 1

    def error(self, node, kind):
        with self.lock:
            self.errors[(node, kind)] += 1

    def close(self):
        with self.lock:
            self.file.close()


class Values:
    """Numbers that no other client writes."""

    def __init__(self, client):
        self.next = itertools.count(client << 40).__next__


def outcome(error):
    """How an exception of the client library is called, and whether the
    operation surely did not happen."""
    if isinstance(error, MemcacheServerError):
        text = error.args[0] if error.args else b""
        text = text.decode() if isinstance(text, bytes) else str(text)
        return text, UNKNOWN not in text
    if isinstance(error, MemcacheUnexpectedCloseError):
        return "closed", False
    if isinstance(error, ConnectionError):
        return "closed", False
    if isinstance(error, OSError):
        return "timeout", False
    raise error
