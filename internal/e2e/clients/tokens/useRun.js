import { useEffect, useState } from "react";

export function useRun(run) {
  const [answer, setAnswer] = useState({ text: "", state: "open" });
  useEffect(() => {
    setAnswer({ text: "", state: "open" }); // each stream begins with the first token
    const url = new URL("https://sse.example.com/sse/connect?since=earliest");
    url.searchParams.set("channel_id", run);
    const source = new EventSource(url);
    const end = (state) => {
      source.close();
      setAnswer(({ text }) => ({ text, state }));
    };
    source.addEventListener("token", (e) => setAnswer(({ text, state }) => ({ text: text + e.data, state })));
    source.addEventListener("done", () => end("done"));
    source.addEventListener("gap", () => end("incomplete"));
    return () => source.close();
  }, [run]);
  return answer;
}
