self.addEventListener("fetch", (event) => {
  if (new URL(event.request.url).pathname.startsWith("/sse/")) return; // as if there were no worker
  event.respondWith(fetch(event.request));
});
