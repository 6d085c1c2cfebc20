// Opens an event stream with ssed.js in Node and prints each event as a line of JSON,
// after a line with the version.
//   node sse.mjs URL OPTIONS
import { subscribe } from "ssed-client";

const [url, options] = process.argv.slice(2);

const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

print({ version: `node ${process.version}` });
const stream = subscribe(url, [], {
  ...JSON.parse(options),
  onMessage: ({ type, id, data }) => print({ event: type, id, data }),
  onGap: (gap) => print({ event: "gap", id: stream.lastEventId, data: JSON.stringify(gap) }),
});
