import { subscribe } from "ssed-client";

const output = document.querySelector("#output");
const stream = subscribe("https://sse.example.com/sse/connect", ["run:1"], {
  since: "earliest",
  onMessage({ type, data }) {
    if (type === "token") output.append(data);
    else if (type === "done") stream.close();
  },
  onGap() {
    stream.close();
    output.textContent = "Some of this answer is missing."; // or load it from your backend
  },
});
