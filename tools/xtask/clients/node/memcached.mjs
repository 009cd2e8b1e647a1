// memcached (3rd-Eden's): classic text.
import { promisify } from "node:util";
import Memcached from "memcached";
import { Checks, host, port, sleep } from "./checks.mjs";

const check = new Checks("memcached (npm)");
const client = new Memcached(`${host}:${port}`, { timeout: 10000, retries: 0, poolSize: 3 });
const verbs = "set get gets getMulti add replace append prepend cas incr decr touch del flush " +
  "version stats settings slabs items";
const call = {};
for (const verb of verbs.split(" ")) call[verb] = promisify(client[verb]).bind(client);
const refused = async (promise) => {
  try {
    return (await promise) === false;
  } catch (error) {
    return error.notStored === true;
  }
};

await call.flush();
check.equal(await call.set("t:a", "text", 100), true);
check.equal(await call.get("t:a"), "text");
check.equal(await call.get("t:none"), undefined);
// Types travel as client flags.
const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
for (const [name, value] of Object.entries({
  number: 42,
  json: { x: [1, 2, null] },
  bytes,
  empty: "",
  unicode: "Ключ",
  lines: "a\r\nEND\r\nb",
})) {
  check.equal(await call.set(`t:${name}`, value, 0), true, name);
  check.equal(await call.get(`t:${name}`), value, name);
}
check.equal(await refused(call.add("t:a", "no", 100)), true);
check.equal(await call.add("t:new", "mid", 100), true);
check.equal(await refused(call.replace("t:none", "no", 100)), true);
check.equal(await call.replace("t:new", "mid2", 100), true);
check.equal(await call.append("t:new", "-end"), true);
check.equal(await call.prepend("t:new", "start-"), true);
check.equal(await call.get("t:new"), "start-mid2-end");
check.equal(await refused(call.append("t:none", "x")), true);

const { cas, ...rest } = await call.gets("t:new");
check.equal(rest, { "t:new": "start-mid2-end" });
check.equal(await call.cas("t:new", "second", cas, 100), true);
check.equal(await call.cas("t:new", "third", cas, 100), false);
check.equal(await call.cas("t:none", "x", cas, 100), false);
check.equal(await call.get("t:new"), "second");

await call.set("t:n", 10, 0);
check.equal(await call.incr("t:n", 5), 15);
check.equal(await call.decr("t:n", 100), 0);
check.equal(await call.incr("t:none", 1), false);
await call.incr("t:a", 1).then(
  () => check.equal(true, false, "incr of text"),
  (error) => check.equal(error.message, "cannot increment or decrement non-numeric value"),
);

// Many under way at once on a few connections: answers must find their askers.
const keys = Array.from({ length: 200 }, (_, i) => `t:m:${i}`);
await Promise.all(keys.map((key, i) => call.set(key, `value ${i}`, 100)));
check.equal(await Promise.all(keys.map((key) => call.get(key))), keys.map((_, i) => `value ${i}`));
const all = await call.getMulti([...keys, "t:none"]);
check.equal(all, Object.fromEntries(keys.map((key, i) => [key, `value ${i}`])));

const large = "0123456789".repeat(70_000);
check.equal(await call.set("t:large", large, 100), true);
check.equal(await call.get("t:large"), large);

check.equal(await call.set("t:ttl", "x", 1), true);
check.equal(await call.set("t:ttl2", "x", 1), true);
check.equal(await call.touch("t:ttl2", 100), true);
check.equal(await call.touch("t:none", 100), false);
await sleep(2100);
check.equal(await call.get("t:ttl"), undefined);
check.equal(await call.get("t:ttl2"), "x");
check.equal(await call.del("t:a"), true);
check.equal(await call.del("t:a"), false);

const [version] = await call.version();
const words = [version.major, version.minor, version.bugfix].join(".");
check.equal(/^\d+\.\d+\.\d+$/.test(words), true, "version");
const [stats] = await call.stats();
check.equal(typeof stats.get_hits, "number");
check.equal(String(stats.version), words, "stats version");
// Memcached itself has none.
if (stats.seawall_version !== undefined) {
  check.equal(words, "1.6.45", "the version that is claimed");
  check.equal(/^\d+\.\d+\.\d+$/.test(String(stats.seawall_version)), true, "seawall version");
}
const [settings] = await call.settings();
check.equal(settings.item_size_max, 1048576);
const [slabs] = await call.slabs();
check.equal(Object.values(slabs).some((slab) => slab.used_chunks > 0), true, "slabs");
const [items] = await call.items();
check.equal(Object.values(items).some((item) => item.number > 0), true, "items");
await call.flush();
check.equal(await call.get("t:ttl2"), undefined);
client.end();
check.done();
