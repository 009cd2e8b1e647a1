"""pymemcache: the classic text protocol."""

import time

from checks import Checks, address
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

check = Checks("pymemcache")
client = Client(address(), no_delay=True, timeout=10, connect_timeout=5)
client.flush_all()

# set, get, flags, binary values, empty values
check.true(client.set("p:a", b"1", noreply=False))
check.equal(client.get("p:a"), b"1")
check.equal(client.get("p:missing"), None)
check.true(client.set("p:bin", bytes(range(256)), noreply=False))
check.equal(client.get("p:bin"), bytes(range(256)))
check.true(client.set("p:crlf", b"a\r\nEND\r\nb", noreply=False))
check.equal(client.get("p:crlf"), b"a\r\nEND\r\nb")
check.true(client.set("p:empty", b"", noreply=False))
check.equal(client.get("p:empty"), b"")
client.set("p:flags", b"x", flags=4242, noreply=False)
check.equal(client.raw_command(b"get p:flags", b"END\r\n"), b"VALUE p:flags 4242 1\r\nx\r\n")

# noreply: the answer of the next command is its own
client.set("p:quiet", b"q", noreply=True)
check.equal(client.get("p:quiet"), b"q")
client.delete("p:quiet", noreply=True)
check.equal(client.get("p:quiet"), None)

# many keys, more than one packet
many = {f"p:many:{i}": str(i).encode() * 50 for i in range(2000)}
check.equal(client.set_many(many, noreply=False), [])
check.equal(client.get_many(list(many)), many)
check.equal(client.get_many([f"p:none:{i}" for i in range(100)]), {})
check.true(client.delete_many(list(many)[:1000], noreply=False))
check.equal(len(client.get_many(list(many))), 1000)

# add, replace, append, prepend
check.equal(client.add("p:a", b"2", noreply=False), False)
check.true(client.add("p:new", b"2", noreply=False))
check.equal(client.replace("p:gone", b"2", noreply=False), False)
check.true(client.replace("p:new", b"mid", noreply=False))
check.true(client.append("p:new", b"-end", noreply=False))
check.true(client.prepend("p:new", b"start-", noreply=False))
check.equal(client.get("p:new"), b"start-mid-end")
check.equal(client.append("p:gone", b"x", noreply=False), False)

# cas
value, unique = client.gets("p:new")
check.equal(value, b"start-mid-end")
check.true(client.cas("p:new", b"v2", unique))
check.equal(client.cas("p:new", b"v3", unique), False)
check.equal(client.cas("p:gone", b"v3", unique), None)
check.equal(client.get("p:new"), b"v2")
pairs = client.gets_many(["p:a", "p:new"])
check.equal({key: pair[0] for key, pair in pairs.items()}, {"p:a": b"1", "p:new": b"v2"})

# counters
client.set("p:n", b"10", noreply=False)
check.equal(client.incr("p:n", 5), 15)
check.equal(client.decr("p:n", 6), 9)
check.equal(client.decr("p:n", 100), 0)
client.set("p:n", b"18446744073709551615", noreply=False)
check.equal(client.incr("p:n", 1), 0)
check.equal(client.incr("p:gone", 1), None)
client.set("p:text", b"abc", noreply=False)
try:
    client.incr("p:text", 1)
    check.true(False, "incr of text")
except MemcacheClientError:
    check.true(True)

# touch, gat, expiry
check.true(client.set("p:ttl", b"short", expire=1, noreply=False))
check.equal(client.get("p:ttl"), b"short")
check.true(client.set("p:ttl2", b"short", expire=1, noreply=False))
check.true(client.touch("p:ttl2", 100, noreply=False))
answer = client.raw_command(b"gat 100 p:ttl2", b"END\r\n")
check.equal(answer, b"VALUE p:ttl2 0 5\r\nshort\r\n")
check.equal(client.touch("p:gone", 5, noreply=False), False)
time.sleep(2.1)
check.equal(client.get("p:ttl"), None)
check.equal(client.get("p:ttl2"), b"short")
check.true(client.set("p:past", b"x", expire=-1, noreply=False))
check.equal(client.get("p:past"), None)

# large values, and one that is too large
large = bytes(i * 7 % 251 for i in range(1000)) * 900
check.true(client.set("p:large", large, noreply=False))
check.equal(client.get("p:large"), large)
try:
    client.set("p:large", b"x" * 2_000_000, noreply=False)
    check.true(False, "two megabytes")
except MemcacheServerError:
    check.true(True)
check.equal(client.get("p:a"), b"1", "the connection survives")

# delete, version, stats, flush
check.true(client.delete("p:a", noreply=False))
check.equal(client.delete("p:a", noreply=False), False)
check.true(client.version()[:4] == b"1.6.", "version")
stats = client.stats()
for name in ("pid", "uptime", "curr_items", "get_hits", "cmd_set", "limit_maxbytes", "threads"):
    check.true(name.encode() in stats, name)
check.true(client.flush_all(noreply=False))
check.equal(client.get("p:large"), None)
check.true(client.set("p:after", b"1", noreply=False))
check.equal(client.get("p:after"), b"1")
client.quit()
check.done()
