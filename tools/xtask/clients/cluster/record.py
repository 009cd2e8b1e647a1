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
LONG_NS = 200_000_000


class Record:
    """Lines of all clients, and their errors by kind and node. Beside the history,
    `errors.txt` lists errors and long waits in order of time."""

    def __init__(self, path):
        self.file = open(path, "w", buffering=1 << 20)
        self.notes = open(path.replace("history.jsonl", "errors.txt"), "w")
        self.lock = threading.Lock()
        self.errors = collections.Counter()
        self.operations = 0
        self.longest_ns = 0

    def line(self, **fields):
        text = json.dumps(fields)
        with self.lock:
            self.operations += 1
            self.file.write(text + "\n")

    def answered(self, client, node, invoked_ns, completed_ns):
        """An operation had an answer and no error; long ones are noted."""
        span_ns = completed_ns - invoked_ns
        with self.lock:
            self.longest_ns = max(self.longest_ns, span_ns)
            if span_ns > LONG_NS:
                self.note(client, node, "answered", invoked_ns, completed_ns)

    def note(self, client, node, what, invoked_ns, completed_ns):
        took_ms = (completed_ns - invoked_ns) / 1e6
        self.notes.write(
            f"{completed_ns // 1_000_000} ms: client {client} at node {node + 1},"
            f" after {took_ms:.2f} ms: {what}\n"
        )

    def healed(self):
        self.line(kind="healed", at_ns=time.monotonic_ns())
        self.operations -= 1

    def error(self, client, node, kind, invoked_ns):
        with self.lock:
            self.errors[(node, kind)] += 1
            self.note(client, node, kind, invoked_ns, time.monotonic_ns())

    def close(self):
        with self.lock:
            self.file.close()
            self.notes.close()


class Values:
    """Numbers that no other client writes."""

    def __init__(self, client):
        self.next = itertools.count(client << 40).__next__


def outcome(error):
    """How an exception of the client library is called, and whether the
    operation surely did not happen."""
    # The library counts a lost connection among the server's errors.
    if isinstance(error, (MemcacheUnexpectedCloseError, ConnectionError)):
        return "closed", False
    if isinstance(error, MemcacheServerError):
        text = error.args[0] if error.args else b""
        text = text.decode() if isinstance(text, bytes) else str(text)
        return text, UNKNOWN not in text
    if isinstance(error, OSError):
        return "timeout", False
    raise error
