"""Client libraries that ask one node for many keys: libraries.py HOST PORT.

Each library loops over gets of several keys, and some writes, until standard input
ends. A value carries its key, so that an answer to something else is seen. In the
end one line of JSON says, by library, how many answers came, which errors, and
which answers were wrong.
"""

import collections
import json
import random
import socket
import sys
import threading
import time

import bmemcached
import memcache
import pylibmc
import pymemcache

HOST, PORT = sys.argv[1], int(sys.argv[2])
KEYS = 64
KEYS_OF_A_GET = 16
# Longer than a request may wait for a node.
TIMEOUT = 6


class Pymemcache:
    def __init__(self):
        self.client = pymemcache.Client((HOST, PORT), timeout=TIMEOUT)

    def get_multi(self, keys):
        return {k: v.decode() for k, v in self.client.get_many(keys).items()}

    def other(self, keys):
        return {k: v.decode() for k, (v, _) in self.client.gets_many(keys).items()}

    def set(self, key, value):
        return self.client.set(key, value, noreply=False)


def libmemcached(binary):
    """Over the binary protocol it asks with quiet gets."""
    client = pylibmc.Client([f"{HOST}:{PORT}"], binary=binary)
    client.behaviors = {"receive_timeout": TIMEOUT * 1_000_000, "retry_timeout": 1}
    return client


class Gats:
    """`gats` of many keys, which no library has: a plain socket."""

    def __init__(self):
        self.stream = socket.create_connection((HOST, PORT), TIMEOUT)
        self.answers = self.stream.makefile("rb")

    def line(self):
        return self.answers.readline().decode().strip()

    def get_multi(self, keys):
        self.stream.sendall(f"gats 100 {' '.join(keys)}\r\n".encode())
        found = {}
        while (line := self.line()) != "END":
            if not line.startswith("VALUE "):
                raise RuntimeError(line)
            found[line.split()[1]] = self.line()
        return found

    def set(self, key, value):
        self.stream.sendall(f"set {key} 0 0 {len(value)}\r\n{value}\r\n".encode())
        if (line := self.line()) != "STORED":
            raise RuntimeError(line)
        return True


LIBRARIES = {
    "pymemcache": Pymemcache,
    "pylibmc, text": lambda: libmemcached(False),
    "pylibmc, binary": lambda: libmemcached(True),
    "python-memcached": lambda: memcache.Client([f"{HOST}:{PORT}"], socket_timeout=TIMEOUT),
    # Its gets of several keys are quiet ones.
    "bmemcached": lambda: bmemcached.Client([f"{HOST}:{PORT}"], socket_timeout=TIMEOUT),
    "gats": Gats,
}


class Loop(threading.Thread):
    def __init__(self, name, library):
        super().__init__(daemon=True)
        self.library, self.prefix = library, name.replace(" ", "").replace(",", "-")
        self.random = random.Random(name)
        self.ended = threading.Event()
        self.seen = {"name": name, "gets": 0, "hits": 0, "sets": 0, "errors": {}, "wrong": []}
        self.errors = collections.Counter()

    def run(self):
        keys = [f"{self.prefix}:{number}" for number in range(KEYS)]
        other = getattr(self.library, "other", self.library.get_multi)
        while not self.ended.is_set():
            time.sleep(0.002)
            asked = self.random.sample(keys, KEYS_OF_A_GET)
            call = self.random.choice([self.library.get_multi, other])
            found = self.attempt(lambda: call(asked))
            if found is not None:
                self.seen["gets"] += 1
                self.seen["hits"] += len(found)
                for key, value in found.items():
                    if key not in asked or not value.startswith(key + "="):
                        self.seen["wrong"].append([key, str(value)[:60]])
            for _ in range(2):
                key = self.random.choice(keys)
                value = f"{key}={self.random.random()}"
                self.seen["sets"] += bool(self.attempt(lambda: self.library.set(key, value)))

    def attempt(self, call):
        try:
            return call()
        except Exception as error:
            self.errors[f"{type(error).__module__}.{type(error).__name__}: {error}"[:160]] += 1
            return None


def main():
    loops = [Loop(name, make()) for name, make in LIBRARIES.items()]
    for loop in loops:
        loop.start()
    sys.stdin.read()
    for loop in loops:
        loop.ended.set()
    for loop in loops:
        loop.join()
        loop.seen["errors"] = loop.errors
    print(json.dumps([loop.seen for loop in loops]))


main()
