"""meta-memcache: the meta commands, with leases and stale values."""

import time

from checks import Checks, address
from meta_memcache import CacheClient, Key, ServerAddress, SetMode
from meta_memcache.configuration import LeasePolicy, StalePolicy
from meta_memcache.configuration import connection_pool_factory_builder

host, port = address()
check = Checks("meta-memcache")
client = CacheClient.cache_client_from_servers(
    servers=[ServerAddress(host, port)],
    connection_pool_factory_fn=connection_pool_factory_builder(recv_timeout=10),
)
check.true(client.set(Key("v:a"), "text", ttl=100))
check.equal(client.get(Key("v:a")), "text")
check.equal(client.get(Key("v:none")), None)
for name, value in (("int", 42), ("bytes", bytes(range(256))), ("list", [1, {"x": 2}])):
    check.true(client.set(Key("v:" + name), value, ttl=100))
    check.equal(client.get(Key("v:" + name)), value)

# Keys that need base64.
check.true(client.set(Key("v:Ключ " + "x" * 20), "unicode", ttl=100))
check.equal(client.get(Key("v:Ключ " + "x" * 20)), "unicode")

# add, replace, append
client.delete(Key("v:new"))
check.true(client.add(Key("v:new"), b"1", ttl=100))
check.true(not client.add(Key("v:new"), b"2", ttl=100))
client.delete(Key("v:gone"))
check.true(not client.set(Key("v:gone"), b"r", ttl=100, set_mode=SetMode.REPLACE))
check.true(client.set(Key("v:new"), b"r", ttl=100, set_mode=SetMode.REPLACE))
check.true(client.set(Key("v:new"), b"-end", ttl=100, set_mode=SetMode.APPEND))
check.true(client.set(Key("v:new"), b"start-", ttl=100, set_mode=SetMode.PREPEND))
check.equal(client.get(Key("v:new")), b"start-r-end")

# cas
value, unique = client.get_cas(Key("v:a"))
check.equal(value, "text")
check.true(client.set(Key("v:a"), "cas", ttl=100, cas_token=unique))
check.true(not client.set(Key("v:a"), "cas2", ttl=100, cas_token=unique))
check.equal(client.get(Key("v:a")), "cas")

# many
many = {Key(f"v:m:{i}"): f"value {i}" for i in range(500)}
for key, value in many.items():
    client.set(key, value, ttl=100)
check.equal(client.multi_get(list(many)), many)
check.equal(client.get_or_lease(Key("v:a"), LeasePolicy()), "cas")

# counters
client.delete(Key("v:n"))
check.equal(client.delta_initialize(Key("v:n"), 1, 10, 100), True)
check.equal(client.delta_and_get(Key("v:n"), 5), 15)
check.equal(client.delta_and_get(Key("v:n"), -6), 9)
client.delete(Key("v:n2"))
check.equal(client.delta_initialize_and_get(Key("v:n2"), 1, 10, 100), 10)
check.true(client.delta(Key("v:n2"), 2))
check.equal(client.delta_and_get(Key("v:n2"), 1), 13)

# invalidate: the first reader wins the lease, others see the stale value
check.true(client.set(Key("v:stale"), "old", ttl=100))
policy = StalePolicy(mark_stale_on_deletion_ttl=30)
check.true(client.invalidate(Key("v:stale"), stale_policy=policy))
first, unique = client.get_cas(Key("v:stale"))
check.true(first in (None, "old"))
check.true(client.set(Key("v:stale"), "fresh", ttl=100))
check.equal(client.get(Key("v:stale")), "fresh")

# lease: a missing key gives a miss to one and a wait to others
client.delete(Key("v:lease"))
lease = LeasePolicy(ttl=30, miss_retries=2, miss_retry_wait=0.05)
check.equal(client.get_or_lease(Key("v:lease"), lease), None)
check.true(client.set(Key("v:lease"), "filled", ttl=100))
check.equal(client.get_or_lease(Key("v:lease"), lease), "filled")

# touch and expiry
check.true(client.set(Key("v:ttl"), "x", ttl=1))
check.true(client.set(Key("v:ttl2"), "x", ttl=1))
check.true(client.touch(Key("v:ttl2"), 100))
check.equal(client.get(Key("v:ttl2"), touch_ttl=200), "x")
time.sleep(2.1)
check.equal(client.get(Key("v:ttl")), None)
check.equal(client.get(Key("v:ttl2")), "x")

# noreply, large, delete
check.true(client.set(Key("v:quiet"), "q", ttl=100, no_reply=True))
check.equal(client.get(Key("v:quiet")), "q")
check.true(client.set(Key("v:large"), b"L" * 700_000, ttl=100))
check.equal(client.get(Key("v:large")), b"L" * 700_000)
check.true(client.delete(Key("v:a")))
check.equal(client.get(Key("v:a")), None)
check.done()
