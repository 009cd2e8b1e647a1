"""pylibmc: libmemcached, text and binary."""

import time

import pylibmc
from checks import Checks, address

host, port = address()
check = Checks("pylibmc")
for binary in (False, True):
    for behaviors in ({}, {"tcp_nodelay": True}):
        client = pylibmc.Client([f"{host}:{port}"], binary=binary, behaviors=behaviors | {"cas": True})
        start = f"l:{int(binary)}:{len(behaviors)}:"
        key = lambda name: start + name
        client.flush_all()
        check.true(client.set(key("a"), "text"))
        check.equal(client.get(key("a")), "text")
        check.equal(client.get(key("none")), None)
        # Python types travel as client flags.
        for name, value in (("int", 42), ("bool", True), ("bytes", bytes(range(256))), ("list", [1, {"x": 2}])):
            check.true(client.set(key(name), value))
            check.equal(client.get(key(name)), value)
        check.true(client.set(key("zip"), "z" * 100_000, min_compress_len=1000))
        check.equal(client.get(key("zip")), "z" * 100_000)
        check.true(client.add(key("new"), "1"))
        check.true(not client.add(key("new"), "2"))
        check.true(client.replace(key("new"), "b"))
        try:
            check.true(not client.replace(key("gone"), "b"))
        except pylibmc.NotFound:
            check.true(binary, "only binary tells that the key is missing")
        check.true(client.append(key("new"), "c"))
        check.true(client.prepend(key("new"), "a"))
        check.equal(client.get(key("new")), "abc")
        value, unique = client.gets(key("new"))
        check.equal(value, "abc")
        check.true(client.cas(key("new"), "cas", unique))
        check.true(not client.cas(key("new"), "cas2", unique))
        client.set(key("n"), 10)
        check.equal(client.incr(key("n"), 5), 15)
        check.equal(client.decr(key("n"), 20), 0)
        try:
            client.incr(key("gone"))
            check.true(False, "incr of nothing")
        except pylibmc.NotFound:
            check.true(True)
        many = {f"m{i}": f"value {i}" * 20 for i in range(500)}
        check.equal(client.set_multi(many, key_prefix=start), [])
        check.equal(client.get_multi(list(many) + ["none"], key_prefix=start), many)
        check.true(client.delete_multi(list(many), key_prefix=start))
        check.equal(client.get_multi(list(many), key_prefix=start), {})
        check.true(client.set(key("large"), b"L" * 700_000))
        check.equal(client.get(key("large")), b"L" * 700_000)
        check.true(client.set(key("ttl"), "x", time=1))
        check.true(client.set(key("ttl2"), "x", time=1))
        check.true(client.touch(key("ttl2"), 100))
        time.sleep(2.1)
        check.equal(client.get(key("ttl")), None)
        check.equal(client.get(key("ttl2")), "x")
        check.true(client.delete(key("a")))
        check.true(not client.delete(key("a")))
        check.true("get_hits" in client.get_stats()[0][1])
        client.flush_all()
        check.equal(client.get(key("ttl2")), None)
        client.disconnect_all()
check.done()
