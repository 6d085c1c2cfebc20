const output = document.querySelector("#output");
const source = new EventSource("https://sse.example.com/sse/connect?channel_id=run:1&since=earliest");
source.addEventListener("token", (e) => output.append(e.data));
source.addEventListener("done", () => source.close());
source.addEventListener("gap", () => {
  source.close();
  output.textContent = "Some of this answer is missing."; // or load it from your backend
});
