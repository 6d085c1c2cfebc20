import random
import time

import httpx
from httpx_sse import connect_sse

url = "https://sse.example.com/sse/connect?channel_id=run:1&since=earliest"
last_id, state = "", "open"
timeout = httpx.Timeout(10, read=45)  # its default, 5 s, is shorter than the time between heartbeats
with httpx.Client(timeout=timeout) as client:
    while state == "open":
        try:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            with connect_sse(client, "GET", url, headers=headers) as source:
                for event in source.iter_sse():
                    last_id = event.id or last_id
                    if event.event == "token":
                        print(event.data, end="", flush=True)
                    elif event.event in ("done", "gap"):
                        state = event.event
                        break
        except httpx.TransportError:
            pass  # cut off: it goes on behind last_id
        if state == "open":
            time.sleep(random.uniform(0.5, 1.5))
