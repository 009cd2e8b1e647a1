// memjs: binary, optionally SASL.
import memjs from "memjs";
import { Checks, credentials, host, port, sleep } from "./checks.mjs";

const [username, password] = (credentials ?? "").split(":");
const check = new Checks("memjs" + (credentials ? " sasl" : ""));
const options = credentials ? { username, password } : {};
const client = memjs.Client.create(`${host}:${port}`, { timeout: 10, retries: 0, ...options });

const text = async (key) => {
  const { value } = await client.get(key);
  return value === null ? null : value.toString();
};

await client.flush();
check.equal(await client.set("j:a", "text", {}), true);
check.equal(await text("j:a"), "text");
check.equal(await text("j:none"), null);
const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
check.equal(await client.set("j:bytes", bytes, {}), true);
check.equal((await client.get("j:bytes")).value, bytes);
check.equal(await client.add("j:a", "no", {}), false);
check.equal(await client.add("j:new", "mid", {}), true);
check.equal(await client.replace("j:none", "no", {}), false);
check.equal(await client.replace("j:new", "mid2", {}), true);
check.equal(await client.append("j:new", "-end"), true);
check.equal(await text("j:new"), "mid2-end");
check.equal((await client.increment("j:n", 5, { initial: 10 })).value, 10);
check.equal((await client.increment("j:n", 5, { initial: 10 })).value, 15);
check.equal((await client.decrement("j:n", 20, {})).value, 0);
const large = Buffer.alloc(700_000, "0123456789");
check.equal(await client.set("j:large", large, {}), true);
check.equal((await client.get("j:large")).value, large);
// A hundred under way at once: answers must find their askers.
const keys = Array.from({ length: 100 }, (_, i) => `j:m:${i}`);
await Promise.all(keys.map((key, i) => client.set(key, `value ${i}`, {})));
const values = await Promise.all(keys.map(text));
check.equal(values, keys.map((_, i) => `value ${i}`));
check.equal(await client.set("j:ttl", "x", { expires: 1 }), true);
check.equal(await client.set("j:ttl2", "x", { expires: 1 }), true);
check.equal(await client.touch("j:ttl2", 100), true);
await sleep(2100);
check.equal(await text("j:ttl"), null);
check.equal(await text("j:ttl2"), "x");
check.equal(await client.delete("j:a"), true);
check.equal(await client.delete("j:a"), false);
await client.flush();
check.equal(await text("j:ttl2"), null);
client.quit();
check.done();
