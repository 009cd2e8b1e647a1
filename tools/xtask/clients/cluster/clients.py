"""Clients of a cluster under faults: clients.py HISTORY WORKERS HOST:PORT...

Commands come by standard input, one a line, and each is answered by a line of
JSON: `probe SINCE_NS NODE...`, `shut NODE` and, the last, `healed`.
"""

import json
import sys
import threading
import time

from pymemcache.client.base import Client

from probe import Probe
from record import Record, outcome
from worker import Worker

KEYS = [f"key:{number}" for number in range(48)]
COUNTERS = [f"counter:{number}" for number in range(4)]
READ_BACK_CLIENT = 900


def main():
    path, workers, *nodes = sys.argv[1:]
    nodes = [(host, int(port)) for host, port in (node.split(":") for node in nodes)]
    record = Record(path)
    first = Client(nodes[0], timeout=5)
    for counter in COUNTERS:
        first.set(counter, "0", noreply=False)
    first.close()
    probes = [Probe(at, at, node, KEYS, record) for at, node in enumerate(nodes)]
    # So that a miss is never for want of a first write.
    assert probes[0].write_all()
    workers = [Worker(n, nodes, KEYS, COUNTERS, record) for n in range(int(workers))]
    for worker in workers:
        worker.start()
    answer(ready=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "probe":
            since_ns, *chosen = map(int, words)
            answer(writable_ms=probe(since_ns, [probes[at] for at in chosen]))
        elif command == "shut":
            answer(**shut(nodes[int(words[0])]))
        elif command == "healed":
            answer(**healed(record, workers, nodes))
            return


def answer(**fields):
    print(json.dumps(fields), flush=True)


def probe(since_ns, probes):
    """Milliseconds until every key was written through each of these nodes."""
    ends = [None] * len(probes)

    def run(at):
        ends[at] = probes[at].write_all()

    threads = [threading.Thread(target=run, args=[at]) for at in range(len(probes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return None if None in ends else (max(ends) - since_ns) / 1e6


def shut(node):
    """Asks a node that must not answer for every key: how many it answered, how
    many it refused with an error."""
    counts = {"served": 0, "refused": 0, "silent": 0}
    lock = threading.Lock()

    def ask(key):
        client = Client(node, timeout=4, connect_timeout=1)
        try:
            client.get(key)
            kind = "served"
        except Exception as error:
            kind = "refused" if outcome(error)[1] else "silent"
        with lock:
            counts[kind] += 1

    threads = [threading.Thread(target=ask, args=[key]) for key in KEYS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def healed(record, workers, nodes):
    for worker in workers:
        worker.ended.set()
    for worker in workers:
        worker.join()
    record.healed()
    complaints = [complaint for worker in workers for complaint in worker.complaints]
    for at, node in enumerate(nodes):
        client = Client(node, timeout=5)
        for key in KEYS:
            invoked_ns = time.monotonic_ns()
            value = client.get(key)
            found = {"miss": True} if value is None else {"hit": int(value)}
            record.line(
                kind="read", client=READ_BACK_CLIENT + at, key=key,
                invoked_ns=invoked_ns, completed_ns=time.monotonic_ns(), **found,
            )
        for counter in COUNTERS:
            surely = sum(worker.incremented[counter][0] for worker in workers)
            perhaps = sum(worker.incremented[counter][1] for worker in workers)
            count = int(client.get(counter) or -1)
            if not surely <= count <= surely + perhaps:
                complaints.append(
                    f"{counter} is {count} at node {at}, after {surely} increments"
                    f" and {perhaps} of unknown outcome"
                )
        client.close()
    record.close()
    errors = [[node, kind, count] for (node, kind), count in sorted(record.errors.items())]
    return {
        "operations": record.operations,
        "errors": errors,
        "complaints": complaints,
        "longest_ms": record.longest_ns / 1e6,
    }


main()
