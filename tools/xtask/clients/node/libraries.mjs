// The npm libraries `memcached` and `memjs` ask one node: libraries.mjs HOST PORT. The
// same loop and the same last line as clients/cluster/libraries.py.

import Memcached from "memcached";
import memjs from "memjs";

const [host, port] = process.argv.slice(2);
const KEYS = 64;
const KEYS_OF_A_GET = 16;

let ended = false;
process.stdin.on("end", () => (ended = true)).resume();

// After a SERVER_ERROR it asks nobody for `retry` milliseconds.
const patience = { timeout: 6000, retries: 0, failures: 1e9, retry: 50 };
const text = new Memcached(`${host}:${port}`, { ...patience, poolSize: 1 });
// Its logger writes to where the verdict goes.
const logger = { log: () => {} };
const binary = memjs.Client.create(`${host}:${port}`, { timeout: 6, retries: 0, logger });
const promised = (call) =>
  new Promise((done, failed) => call((error, value) => (error ? failed(error) : done(value))));

const libraries = {
  "node memcached": {
    getMulti: (keys) => promised((done) => text.getMulti(keys, done)),
    set: (key, value) => promised((done) => text.set(key, value, 0, done)),
  },
  // It has gets of one key alone: they are sent together.
  memjs: {
    getMulti: async (keys) => {
      const found = await Promise.all(keys.map((key) => binary.get(key)));
      const hits = keys.map((key, at) => [key, found[at].value?.toString()]);
      return Object.fromEntries(hits.filter(([, value]) => value !== undefined));
    },
    set: (key, value) => binary.set(key, value, {}),
  },
};

async function loop(name, library) {
  const seen = { name, gets: 0, hits: 0, sets: 0, errors: {}, wrong: [] };
  const attempt = async (call) => {
    try {
      return await call();
    } catch (error) {
      const kind = String(error?.message ?? error).slice(0, 160);
      seen.errors[kind] = (seen.errors[kind] ?? 0) + 1;
    }
  };
  const key = () => `${name.replace(" ", "-")}:${Math.floor(Math.random() * KEYS)}`;
  while (!ended) {
    await new Promise((done) => setTimeout(done, 2));
    const asked = [...new Set(Array.from({ length: KEYS_OF_A_GET }, key))];
    const found = await attempt(() => library.getMulti(asked));
    if (found !== undefined) {
      seen.gets += 1;
      for (const [key, value] of Object.entries(found)) {
        seen.hits += 1;
        if (!asked.includes(key) || !String(value).startsWith(`${key}=`)) {
          seen.wrong.push([key, String(value).slice(0, 60)]);
        }
      }
    }
    for (let times = 0; times < 2; times += 1) {
      const chosen = key();
      const stored = await attempt(() => library.set(chosen, `${chosen}=${Math.random()}`));
      seen.sets += stored ? 1 : 0;
    }
  }
  return seen;
}

const running = Object.entries(libraries).map(([name, library]) => loop(name, library));
console.log(JSON.stringify(await Promise.all(running)));
process.exit(0);
