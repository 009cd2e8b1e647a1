"""meta-memcache: the meta protocol, with leases, stale marks and noreply.

The last release in Python alone. meta_socket_cas.py tries the extension that
those from 2.0 on use.
"""

import logging
import random
import time

from checks import Checks, address
from meta_memcache import CacheClient, Key, ServerAddress, SetMode, connection_pool_factory_builder
from meta_memcache.configuration import LeasePolicy, RecachePolicy, StalePolicy
from meta_memcache.errors import MemcacheServerError
from meta_memcache.protocol import Conflict, Flag, IntFlag, Miss, NotStored, Success, TokenFlag, Value

logging.disable()  # It logs the errors that it raises.
host, port = address()
check = Checks("meta-memcache")
client = CacheClient.cache_client_from_servers(
    [ServerAddress(host, port)],
    connection_pool_factory_builder(connection_timeout=5, recv_timeout=10),
)

# values of every type travel with their client flags
for name, value in (
    ("str", "text"),
    ("int", 42),
    ("bytes", bytes(range(256))[:128]),
    ("crlf", b"a\r\nEN\r\nHD\r\nb"),
    ("zip", "z" * 10_000),
    ("list", [1, {"x": 2}]),
):
    check.true(client.set("m:" + name, value, ttl=100), name)
    check.equal(client.get("m:" + name), value, name)
check.equal(client.get("m:none"), None)
check.true(client.set(Key("m:never"), b"x", ttl=0))

# many keys in one batch, hits and misses
many = [f"m:many:{i}" for i in range(500)]
for index, key in enumerate(many):
    check.true(client.set(key, index, ttl=100, no_reply=index % 2 == 1))
found = client.multi_get(many + [f"m:none:{i}" for i in range(50)])
check.equal(len(found), 550)
check.equal([found[Key(key)] for key in many], list(range(500)))
check.equal(sum(value is None for value in found.values()), 50)

# modes
check.true(not client.set("m:str", "no", ttl=100, set_mode=SetMode.ADD))
check.true(client.set("m:new", b"mid", ttl=100, set_mode=SetMode.ADD))
check.true(not client.set("m:gone", "no", ttl=100, set_mode=SetMode.REPLACE))
check.true(client.set("m:new", b"mid2", ttl=100, set_mode=SetMode.REPLACE))
check.true(client.set("m:new", b"-end", ttl=100, set_mode=SetMode.APPEND))
check.true(client.set("m:new", b"start-", ttl=100, set_mode=SetMode.PREPEND))
check.equal(client.get("m:new"), b"start-mid2-end")
check.true(not client.refill("m:new", b"no", ttl=100))
prepend = {TokenFlag.MODE: SetMode.PREPEND.value}
check.true(isinstance(client.meta_set(Key("m:gone"), b"x", 100, token_flags=prepend), NotStored))

# CAS
value, unique = client.get_cas("m:new")
check.equal(value, b"start-mid2-end")
check.true(client.set("m:new", "v2", ttl=100, cas_token=unique))
check.true(not client.set("m:new", "v3", ttl=100, cas_token=unique))
compare = {IntFlag.CAS_TOKEN: unique}
check.true(isinstance(client.meta_set(Key("m:new"), b"x", 100, int_flags=dict(compare)), Conflict))
check.true(isinstance(client.meta_set(Key("m:gone"), b"x", 100, int_flags=dict(compare)), Miss))
value, next_unique = client.get_cas("m:new")
check.equal((value, next_unique != unique), ("v2", True))
check.true(not client.delete("m:new", cas_token=unique))
check.true(client.delete("m:new", cas_token=next_unique))
check.equal(client.get_cas("m:new"), (None, None))

# everything that a get can tell about an item
check.true(client.set("m:seen", b"four", ttl=100))
asked = {
    Flag.RETURN_VALUE, Flag.RETURN_TTL, Flag.RETURN_CLIENT_FLAG, Flag.RETURN_LAST_ACCESS,
    Flag.RETURN_FETCHED, Flag.RETURN_CAS_TOKEN, Flag.RETURN_KEY,
}
tell = lambda key: client.meta_get(Key(key), set(asked), token_flags={TokenFlag.OPAQUE: b"o17"})
first = tell("m:seen")
check.equal((first.value, first.size), (b"four", 4))
check.true(first.int_flags[IntFlag.TTL] in (99, 100), "ttl")
check.equal(first.int_flags[IntFlag.CLIENT_FLAG], 16)
check.equal(first.int_flags[IntFlag.HIT_AFTER_WRITE], 0)
check.true(first.int_flags[IntFlag.LAST_READ_AGE] in (0, 1), "last access")
check.equal(first.token_flags, {TokenFlag.OPAQUE: b"o17", TokenFlag.KEY: b"m:seen"})
check.equal(first.flags, set(), "neither won nor stale")
check.true(first.int_flags[IntFlag.RETURNED_CAS_TOKEN] > 0)
check.equal(tell("m:seen").int_flags[IntFlag.HIT_AFTER_WRITE], 1)
check.true(isinstance(client.meta_get(Key("m:seen")), Success), "a get without flags")
check.true(isinstance(client.meta_get(Key("m:none"), {Flag.RETURN_VALUE}), Miss))
ttl = lambda key: client.meta_get(Key(key), {Flag.RETURN_TTL}).int_flags[IntFlag.TTL]
check.equal(ttl("m:never"), -1)

# counters
check.equal(client.delta_and_get("m:n", 1), None)
check.equal(client.delta_initialize_and_get("m:n", 1, initial_value=10, initial_ttl=100), 10)
check.equal(client.delta_initialize_and_get("m:n", 5, initial_value=10, initial_ttl=100), 15)
check.equal(client.delta_and_get("m:n", -4), 11)
check.equal(client.delta_and_get("m:n", -100), 0)
check.true(client.delta("m:n", 7, no_reply=True))
check.equal(client.delta_and_get("m:n", 0, refresh_ttl=50), 7)
check.true(ttl("m:n") in (49, 50), "refreshed")
try:
    client.delta_and_get("m:str", 1)
    check.true(False, "arithmetic on text")
except MemcacheServerError:
    check.true(True)

# touch and expiry
check.true(client.set("m:ttl", b"x", ttl=1))
check.true(client.set("m:ttl2", b"x", ttl=1))
check.true(client.set("m:ttl3", b"x", ttl=1))
check.true(client.touch("m:ttl2", ttl=100))
check.equal(client.get("m:ttl3", touch_ttl=100), b"x")
check.true(not client.touch("m:gone", ttl=100))
time.sleep(2.1)
check.equal(client.get("m:ttl"), None)
check.equal(client.get("m:ttl2"), b"x")
check.equal(client.get("m:ttl3"), b"x")

# leases: one reader of a missing key wins, the others wait for it
lease = LeasePolicy(ttl=30, miss_retries=2, miss_retry_wait=0.05)
value, unique = client.get_or_lease_cas("m:lease", lease)
check.true(value is None and unique)
begin = time.monotonic()
check.true(not client.get_or_lease("m:lease", lease))
check.true(time.monotonic() - begin > 0.04, "the loser waits")
check.true(client.set("m:lease", "fresh", ttl=100, cas_token=unique))
check.equal(client.get_or_lease("m:lease", lease), "fresh")

# recache: shortly before the end one reader wins, the others get the old value
check.true(client.set("m:recache", "old", ttl=20))
check.equal(client.get("m:recache", recache_policy=RecachePolicy(ttl=10)), "old")
check.equal(client.get("m:recache", recache_policy=RecachePolicy(ttl=30)), None, "won")
check.equal(client.get("m:recache", recache_policy=RecachePolicy(ttl=30)), "old", "lost")

# stale: a deletion that leaves the old value for all but one reader
stale = StalePolicy(mark_stale_on_deletion_ttl=30, mark_stale_on_cas_mismatch=True)
check.true(client.set("m:stale", "old", ttl=100))
_, unique = client.get_cas("m:stale")
check.true(client.invalidate("m:stale", stale_policy=stale))
won = tell("m:stale")
check.equal((won.flags, won.value), ({Flag.WIN, Flag.STALE}, "old"))
lost = tell("m:stale")
check.equal((lost.flags, lost.value), ({Flag.LOST, Flag.STALE}, "old"))
check.true(client.set("m:stale", "late", ttl=100, cas_token=unique, stale_policy=stale))
late = tell("m:stale")
check.equal((Flag.STALE in late.flags, late.value), (True, "late"), "an older CAS stores as stale")
check.true(client.set("m:stale", "fresh", ttl=100))
check.equal(tell("m:stale").flags, set())

# binary keys (sent as base64), long values, deletes
binary = Key("m:ключ", is_unicode=True)
check.true(client.set(binary, "unicode key", ttl=100))
check.equal(client.get(binary), "unicode key")
incompressible = random.Random(7).randbytes(700_000)
check.true(client.set("m:large", incompressible, ttl=100))
check.equal(client.get("m:large"), incompressible)
check.true(client.delete("m:large"))
check.true(not client.delete("m:large"))
check.true(client.invalidate("m:large"), "gone already")
check.true(client.delete("m:int", no_reply=True))
check.equal(client.get("m:int"), None)
check.done()
