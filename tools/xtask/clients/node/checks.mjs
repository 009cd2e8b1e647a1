// Counts assertions and prints the line that xtask looks for.
import assert from "node:assert";

export const [host, port, credentials] = process.argv.slice(2);

export class Checks {
  constructor(name) {
    this.name = name;
    this.count = 0;
  }
  equal(got, want, what) {
    this.count += 1;
    assert.deepStrictEqual(got, want, `${this.name}: check ${this.count} ${what ?? ""}`);
  }
  done() {
    console.log(`ok ${this.name} ${this.count} checks`);
    process.exit(0);
  }
}

export const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));
