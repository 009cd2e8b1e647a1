"""Writes every key through one node, all at once, until each was written.

Classic text over a plain socket: requests that wait for a failover must not
hold up those behind them.
"""

import socket
import time

from record import UNKNOWN, Values

PATIENCE = 20.0
TIMEOUT = 2.5
# Every key has its own client, for they are all under way together.
FIRST_CLIENT = 1_000


class Probe:
    def __init__(self, number, node, address, keys, record):
        self.node, self.address, self.record = node, address, record
        first = FIRST_CLIENT + number * len(keys)
        self.clients = {key: first + at for at, key in enumerate(keys)}
        self.values = {key: Values(client).next for key, client in self.clients.items()}

    def write_all(self):
        """When the last key was written; none if that took too long."""
        missing = list(self.clients)
        deadline = time.monotonic() + PATIENCE
        while missing:
            if time.monotonic() > deadline:
                return None
            missing = self.write(missing)
            if missing:
                time.sleep(0.002)
        return time.monotonic_ns()

    def write(self, keys):
        """Sends one set of each key; the keys that were not stored."""
        written = {key: self.values[key]() for key in keys}
        try:
            stream = socket.create_connection(self.address, 0.3)
        except OSError:
            return keys
        with stream:
            stream.settimeout(TIMEOUT)
            invoked_ns = time.monotonic_ns()
            answers = stream.makefile("rb")
            missing, answered = [], 0
            try:
                for key, value in written.items():
                    text = str(value)
                    stream.sendall(f"set {key} 0 0 {len(text)}\r\n{text}\r\n".encode())
                for key in keys:
                    answer = answers.readline().decode().strip()
                    if not answer:
                        raise ConnectionError
                    answered += 1
                    if not self.note(key, written[key], invoked_ns, answer):
                        missing.append(key)
            except OSError as error:
                kind = "timeout" if isinstance(error, TimeoutError) else "closed"
                for key in keys[answered:]:
                    self.note(key, written[key], invoked_ns, kind)
                    missing.append(key)
            return missing

    def note(self, key, value, invoked_ns, answer):
        line = dict(
            kind="write", client=self.clients[key], key=key, value=value, invoked_ns=invoked_ns
        )
        stored = answer == "STORED"
        if not stored:
            kind = answer.removeprefix("SERVER_ERROR ")
            self.record.error(self.clients[key], self.node, kind, invoked_ns)
        if stored or (answer.startswith("SERVER_ERROR") and UNKNOWN not in answer):
            line["completed_ns"] = time.monotonic_ns()
            if not stored:
                line["refused"] = True
        self.record.line(**line)
        return stored
