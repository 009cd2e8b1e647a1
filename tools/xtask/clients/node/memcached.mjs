// memcached (npm): the classic text protocol.
import { promisify } from "node:util";
import Memcached from "memcached";
import { Checks, host, port, sleep } from "./checks.mjs";

const check = new Checks("node memcached");
const raw = new Memcached(`${host}:${port}`, { timeout: 10_000, retries: 0, poolSize: 4 });
const names = "get gets getMulti set add replace append prepend cas incr decr del touch flush stats version";
const client = Object.fromEntries(names.split(" ").map((name) => [name, promisify(raw[name]).bind(raw)]));
const fails = async (promise) => promise.then(() => false, () => true);

await client.flush();
check.equal(await client.set("n:a", "text", 0), true);
check.equal(await client.get("n:a"), "text");
check.equal(await client.get("n:none"), undefined);
// Types travel as client flags.
for (const [name, value] of Object.entries({ number: 42, object: { x: [1, 2] }, flag: true })) {
  check.equal(await client.set(`n:${name}`, value, 0), true);
  check.equal(await client.get(`n:${name}`), value);
}
const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
check.equal(await client.set("n:bytes", bytes, 0), true);
check.equal(await client.get("n:bytes"), bytes);
check.equal(await fails(client.add("n:a", "no", 0)), true);
check.equal(await client.add("n:new", "mid", 0), true);
check.equal(await fails(client.replace("n:none", "no", 0)), true);
check.equal(await client.append("n:new", "-end"), true);
check.equal(await client.prepend("n:new", "start-"), true);
const found = await client.gets("n:new");
check.equal(found["n:new"], "start-mid-end");
check.equal(await client.cas("n:new", "cas", found.cas, 0), true);
check.equal(await client.cas("n:new", "again", found.cas, 0), false);
check.equal(await client.set("n:n", 10, 0), true);
check.equal(await client.incr("n:n", 5), 15);
check.equal(await client.decr("n:n", 20), 0);
check.equal(await client.incr("n:none", 1), false);
const many = Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`n:m:${i}`, `value ${i}`]));
await Promise.all(Object.entries(many).map(([key, value]) => client.set(key, value, 0)));
check.equal(await client.getMulti(Object.keys(many)), many);
const large = "0123456789".repeat(70_000);
check.equal(await client.set("n:large", large, 0), true);
check.equal(await client.get("n:large"), large);
check.equal(await client.set("n:ttl", "x", 1), true);
check.equal(await client.set("n:ttl2", "x", 1), true);
check.equal(await client.touch("n:ttl2", 100), true);
await sleep(2100);
check.equal(await client.get("n:ttl"), undefined);
check.equal(await client.get("n:ttl2"), "x");
check.equal(await client.del("n:a"), true);
check.equal(await client.del("n:a"), false);
check.equal("curr_items" in (await client.stats())[0], true);
check.equal((await client.version())[0].version.startsWith("1.6."), true);
await client.flush();
check.equal(await client.get("n:ttl2"), undefined);
check.done();
