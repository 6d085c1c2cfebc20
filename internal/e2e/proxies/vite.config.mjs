// snippet
const closeBothSides = (proxy) =>
  proxy.on("proxyRes", (fromSsed, req, toClient) => {
    toClient.on("close", () => fromSsed.destroy()); // the client has gone
    fromSsed.on("error", () => toClient.destroy()); // ssed was killed
  });

export default {
  server: {
    proxy: { "/sse": { target: "http://127.0.0.1:8080", configure: closeBothSides } },
  },
};
// end
