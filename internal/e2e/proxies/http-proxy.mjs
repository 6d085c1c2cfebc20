const port = Number(process.argv[2]);

// snippet
import http from "node:http";
import httpProxy from "http-proxy";

const proxy = httpProxy.createProxyServer({ target: "http://127.0.0.1:8080" });
proxy.on("proxyRes", (fromSsed, req, toClient) => {
  toClient.on("close", () => fromSsed.destroy()); // the client has gone
  fromSsed.on("error", () => toClient.destroy()); // ssed was killed
});
proxy.on("error", (error, req, toClient) => toClient.destroy());
http.createServer((req, toClient) => proxy.web(req, toClient)).listen(port, "127.0.0.1");
// end
