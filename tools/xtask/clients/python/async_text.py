"""emcache and memcachio: asyncio clients of the text protocol.

emcache raises and memcachio's stats() waits for ever when the version is more
than one word.
"""

import asyncio

import emcache
import memcachio
from checks import Checks, address

host, port = address()
check = Checks("asyncio")


async def by_emcache():
    client = await emcache.create_client([emcache.MemcachedHostAddress(host, port)])
    await client.set(b"e:a", b"1", exptime=100)
    item = await client.gets(b"e:a")
    check.equal(item.value, b"1")
    check.true(item.cas, "emcache cas")
    await client.cas(b"e:a", b"2", item.cas)
    try:
        await client.cas(b"e:a", b"3", item.cas)
        check.true(False, "emcache stored over a newer value")
    except emcache.StorageCommandError:
        check.true(True)
    check.equal(await client.increment(b"e:a", 5), 7)
    check.equal((await client.get_many([b"e:a", b"e:none"]))[b"e:a"].value, b"7")
    node = emcache.MemcachedHostAddress(host, port)
    check.true((await client.version(node)).startswith("1.6."), "emcache version")
    check.true("version" in await client.stats(node), "emcache stats")
    await client.close()


async def by_memcachio():
    client = memcachio.Client((host, port))
    check.true(await client.set("m:a", "1", expiry=100))
    items = await client.gets("m:a")
    unique = items[b"m:a"].cas
    check.true(await client.cas("m:a", "2", unique))
    check.true(not await client.cas("m:a", "3", unique), "memcachio cas")
    check.equal(await client.incr("m:a", 5), 7)
    check.equal((await client.get("m:a", "m:none"))[b"m:a"].value, b"7")
    version = next(iter((await client.version()).values()))
    check.true(version.startswith("1.6."), version)
    # memcachio needs what `stats` says to be words in pairs.
    stats = next(iter((await asyncio.wait_for(client.stats(), 10)).values()))
    check.true(stats, "memcachio stats")


async def main():
    await by_emcache()
    await by_memcachio()


asyncio.run(main())
check.done()
