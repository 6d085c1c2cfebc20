// An example service for --auth-url, in JavaScript (Node, no packages).
//
//     SESSION_SECRET=... node auth.mjs 127.0.0.1:9200
//     ssed --auth-url http://127.0.0.1:9200/
//
// A session cookie is "user|end|signature", see session() below. Take your own sessions
// instead. What matters is what this decides on: X-SSE-Channels and nothing else.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = process.env.SESSION_SECRET;
if (!secret) throw new Error("SESSION_SECRET is not set");

// session returns the user of the session cookie and when it ends, or null.
function session(cookies = "") {
  try {
    const pair = cookies.split("; ").find((c) => c.startsWith("session="));
    const [user, end, signature] = decodeURIComponent(pair.slice("session=".length)).split("|");
    const valid = createHmac("sha256", secret).update(`${user}|${end}`).digest();
    // timingSafeEqual throws where the lengths differ.
    if (timingSafeEqual(valid, Buffer.from(signature, "hex")) && Number(end) > Date.now() / 1000) {
      return { user, end };
    }
  } catch {
    // No such cookie, or none of ours.
  }
  return null;
}

// Everyone with a session may have news:..., and the channel of their own.
const mayHave = (user, channel) => channel.startsWith("news:") || channel === "user:" + user;

const server = createServer((req, res) => {
  const who = session(req.headers.cookie);
  // Names are percent-encoded and joined by commas.
  const channels = req.headers["x-sse-channels"].split(",").map(decodeURIComponent);
  if (!who) {
    res.writeHead(401).end();
  } else if (!channels.every((c) => mayHave(who.user, c))) {
    res.writeHead(403).end();
  } else {
    res.writeHead(204, { "X-SSE-Subject": encodeURIComponent(who.user), "X-SSE-Expires": who.end }).end();
  }
});

const [, host, port] = process.argv[2].match(/^(.*):(\d+)$/);
server.listen(Number(port), host);
