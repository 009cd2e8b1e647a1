"""meta_memcache_socket: the extension of meta-memcache from 2.0 on.

It reads CAS uniques into 32 bits, and hands out none that is larger. memcached's
are small; those of Seawall fit with --cas-bits 32, and otherwise they do not.
"""

import socket

import meta_memcache_socket as meta
from checks import Checks, address

check = Checks("meta_memcache_socket")
stream = socket.create_connection(address()).makefile("rwb")


def ask(request):
    stream.write(request)
    stream.flush()
    return stream.readline()


def settings():
    line, found = ask(b"stats settings\r\n"), {}
    while line != b"END\r\n":
        _, name, value = line.decode().split(" ", 2)
        found[name] = value.strip()
        line = stream.readline()
    return found


fits = settings().get("seawall_cas_bits", "32") == "32"
for index in range(100):
    key = b"cas:%d" % index
    check.equal(ask(b"ms %s 1 T100\r\nx\r\n" % key), b"HD\r\n")
    header = ask(b"mg %s c t\r\n" % key)
    token = meta.parse_header(memoryview(header), 0, len(header))[-1].cas_token
    check.equal(token is not None, fits, header)
    if fits:
        check.equal(ask(b"ms %s 1 C%d\r\ny\r\n" % (key, token)), b"HD\r\n")
        check.equal(ask(b"ms %s 1 C%d\r\nz\r\n" % (key, token)), b"EX\r\n", "a newer value")
check.done()
