"""python-binary-memcached: binary, quiet multi operations, optionally SASL."""

import sys
import time

import bmemcached
from checks import Checks, address

host, port = address()
user, password = (sys.argv[3].split(":", 1) if len(sys.argv) > 3 else (None, None))
check = Checks("python-binary-memcached" + (" sasl" if user else ""))
client = bmemcached.Client((f"{host}:{port}",), user, password)
if user:
    wrong = bmemcached.Client((f"{host}:{port}",), user, "not " + password)
    try:
        wrong.set("b:wrong", "x")
        check.true(False, "wrong password")
    except bmemcached.exceptions.AuthenticationNotSupported:
        check.true(False, "no SASL")
    except Exception:
        check.true(True)
client.flush_all()
check.true(client.set("b:a", "text"))
check.equal(client.get("b:a"), "text")
check.equal(client.get("b:none"), None)
for name, value in (("int", 42), ("bytes", bytes(range(256))), ("list", [1, {"x": 2}])):
    check.true(client.set("b:" + name, value))
    check.equal(client.get("b:" + name), value)
check.true(client.add("b:new", "1"))
check.true(not client.add("b:new", "2"))
check.true(client.replace("b:new", "r"))
check.true(not client.replace("b:gone", "r"))
value, unique = client.gets("b:new")
check.equal(value, "r")
check.true(client.cas("b:new", "c", unique))
check.true(not client.cas("b:new", "d", unique))
check.equal(client.incr("b:n", 5, 10), 10)
check.equal(client.incr("b:n", 5), 15)
check.equal(client.decr("b:n", 1), 14)
check.equal(client.decr("b:n", 100), 0)
many = {f"b:m:{i}": f"value {i}" for i in range(500)}
check.equal(client.set_multi(many), [])
check.equal(client.get_multi(list(many) + ["b:none"]), many)
check.true(client.delete_multi(list(many)))
check.equal(client.get_multi(list(many)), {})
check.true(client.set("b:large", b"L" * 700_000, compress_level=0))
check.equal(client.get("b:large"), b"L" * 700_000)
check.true(client.set("b:ttl", "x", time=1))
time.sleep(2.1)
check.equal(client.get("b:ttl"), None)
check.true(client.delete("b:a"))
check.equal(client.get("b:a"), None)
stats = list(client.stats().values())[0]
check.true("curr_items" in stats)
check.true(client.flush_all())
check.equal(client.get("b:new"), None)
client.disconnect_all()
check.done()
