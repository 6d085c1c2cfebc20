// Runs a snippet in Node and prints what it shows, a line of JSON each, after a line
// with the version of the package.
//   node harness.mjs SNIPPET URL PACKAGE
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [snippet, url, name] = process.argv.slice(2);

const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const { version } = JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url)));
print({ version: `${version}, node ${process.version}` });

globalThis.url = url;
globalThis.show = (event, id, data) => print({ event, id, data });
globalThis.lost = (why) => print({ lost: why?.type ?? String(why ?? "end") });
await import(pathToFileURL(snippet));

// The delay of undici before it comes back does not keep the process alive.
setInterval(() => {}, 60_000);
