// Opens an event stream with one of the JavaScript clients and prints each event as
// a line of JSON, after a line with the version.
//   node sse.mjs CLIENT URL [OPTIONS OF ssed.js, JSON]
import { readFileSync } from "node:fs";

const [name, url, options = "{}"] = process.argv.slice(2);

const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const versionOf = (pkg) =>
  JSON.parse(readFileSync(new URL(`node_modules/${pkg}/package.json`, import.meta.url))).version;

if (name === "ssed.js") {
  const { subscribe } = await import("../../../clients/js/ssed.js");
  print({ version: `node ${process.version}` });
  const stream = subscribe(url, [], {
    ...JSON.parse(options),
    onMessage: ({ type, id, data }) => print({ event: type, id, data }),
    onGap: (gap) => print({ event: "gap", id: stream.lastEventId, data: JSON.stringify(gap) }),
  });
} else {
  const { EventSource } = await import(name);
  print({ version: `${versionOf(name)}, node ${process.version}` });
  const source = new EventSource(url);
  for (const type of ["message", "gap"]) {
    source.addEventListener(type, (e) => print({ event: e.type, id: e.lastEventId, data: e.data }));
  }
}

// The delay of undici before it comes back does not keep the process alive.
setInterval(() => {}, 60_000);
