"""A client that reads and writes a few keys through one node of the cluster.

It prefers its own node and goes to the next when that cannot be reached. An
operation that was begun is never repeated.
"""

import random
import select
import threading
import time

from pymemcache.client.base import Client

from record import Values, outcome

TIMEOUT = 2.5
CONNECT_TIMEOUT = 0.3
# On a node that is not its own it stays for so long.
VISIT_SECONDS = 1.0


class Worker(threading.Thread):
    def __init__(self, number, nodes, keys, counters, record):
        super().__init__(daemon=True)
        self.number, self.nodes, self.record = number, nodes, record
        self.keys, self.counters = keys, counters
        self.value = Values(number).next
        self.random = random.Random(number)
        self.ended = threading.Event()
        self.client, self.node, self.visit_ends = None, None, None
        self.stored = {}  # What a gets found: key -> (value, cas).
        self.incremented = {key: [0, 0] for key in counters}  # Surely, perhaps.
        self.counted = dict.fromkeys(counters, 0)
        self.complaints = []

    def run(self):
        kinds = [self.set] * 45 + [self.get] * 35 + [self.delete] * 5
        kinds += [self.gets] * 6 + [self.cas] * 6 + [self.increment] * 3
        while not self.ended.is_set():
            time.sleep(self.random.uniform(0.001, 0.005))
            if self.visit_ends and time.monotonic() > self.visit_ends:
                self.leave()
            if self.client is not None and self.was_closed():
                self.leave()
            if self.client is None and not self.connect():
                time.sleep(0.02)
                continue
            self.random.choice(kinds)()
        self.leave()

    def leave(self):
        if self.client is not None:
            self.client.close()
        self.client = None

    def was_closed(self):
        """Whether the node ended the connection between two operations, as a pool
        of connections looks before it lends one: that is no error."""
        return select.select([self.client.sock], [], [], 0)[0] != []

    def connect(self):
        own = self.number % len(self.nodes)
        for step in range(len(self.nodes)):
            node = (own + step) % len(self.nodes)
            client = Client(
                self.nodes[node],
                connect_timeout=CONNECT_TIMEOUT,
                timeout=CONNECT_TIMEOUT,
                no_delay=True,
            )
            try:
                client.version()
            except Exception:  # Nothing of consequence was sent.
                client.close()
                continue
            client.sock.settimeout(TIMEOUT)
            self.client, self.node = client, node
            self.visit_ends = time.monotonic() + VISIT_SECONDS if step else None
            return True
        return False

    def attempt(self, call):
        """Answer, moments, and whether it was answered, refused or neither."""
        invoked_ns = time.monotonic_ns()
        try:
            answer = call()
        except Exception as error:
            completed_ns = time.monotonic_ns()
            kind, refused = outcome(error)
            self.record.error(self.number, self.node, kind, invoked_ns)
            self.leave()
            return None, invoked_ns, completed_ns, "refused" if refused else "unknown"
        completed_ns = time.monotonic_ns()
        self.record.answered(self.number, self.node, invoked_ns, completed_ns)
        return answer, invoked_ns, completed_ns, "answered"

    def set(self):
        key, value = self.random.choice(self.keys), self.value()
        self.write(key, value, lambda: self.client.set(key, str(value), noreply=False))

    def cas(self):
        if not self.stored:
            return self.gets()
        key, (_, cas) = self.stored.popitem()
        value = self.value()
        self.write(key, value, lambda: self.client.cas(key, str(value), cas, noreply=False))

    def write(self, key, value, call):
        stored, invoked_ns, completed_ns, how = self.attempt(call)
        line = dict(kind="write", client=self.number, key=key, value=value, invoked_ns=invoked_ns)
        if how != "unknown":
            line["completed_ns"] = completed_ns
        if how == "refused" or (how == "answered" and not stored):
            line["refused"] = True
        self.record.line(**line)

    def delete(self):
        key = self.random.choice(self.keys)
        _, invoked_ns, completed_ns, how = self.attempt(
            lambda: self.client.delete(key, noreply=False)
        )
        line = dict(kind="delete", client=self.number, key=key, invoked_ns=invoked_ns)
        if how == "answered":
            line["completed_ns"] = completed_ns
        if how != "refused":
            self.record.line(**line)

    def get(self):
        key = self.random.choice(self.keys)
        self.read(key, lambda: self.client.get(key))

    def gets(self):
        key = self.random.choice(self.keys)

        def call():
            value, cas = self.client.gets(key)
            if value is not None:
                self.stored[key] = (value, cas)
            return value

        self.read(key, call)

    def read(self, key, call):
        value, invoked_ns, completed_ns, how = self.attempt(call)
        if how != "answered":
            return
        found = {"miss": True} if value is None else {"hit": int(value)}
        self.record.line(
            kind="read", client=self.number, key=key,
            invoked_ns=invoked_ns, completed_ns=completed_ns, **found,
        )

    def increment(self):
        key = self.random.choice(self.counters)
        count, _, _, how = self.attempt(lambda: self.client.incr(key, 1, noreply=False))
        if how == "answered":
            self.incremented[key][0] += 1
            if count is None or count <= self.counted[key]:
                self.complaints.append(f"{key} was {self.counted[key]} and became {count}")
            self.counted[key] = count or 0
        elif how == "unknown":
            self.incremented[key][1] += 1
