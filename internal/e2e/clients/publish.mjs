// Publishes with one of the JavaScript clients of Redis. Reads one base64 payload per
// line, prints the version, then the number of receivers of each.
//   node publish.mjs CLIENT REDIS_URL CHANNEL
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const [name, url, channel] = process.argv.slice(2);

const versionOf = (pkg) =>
  JSON.parse(readFileSync(new URL(`node_modules/${pkg}/package.json`, import.meta.url))).version;

async function connect() {
  if (name === "ioredis") {
    const { default: Redis } = await import("ioredis");
    const redis = new Redis(url);
    return { publish: (b) => redis.publish(channel, b), close: () => redis.quit() };
  }
  const { createClient } = await import("redis");
  const client = await createClient({ url }).connect();
  return { publish: (b) => client.publish(channel, b), close: () => client.close() };
}

console.log(`${versionOf(name)}, node ${process.version}`);
const client = await connect();
for await (const line of createInterface({ input: process.stdin })) {
  console.log(await client.publish(Buffer.from(line, "base64")));
}
await client.close();
