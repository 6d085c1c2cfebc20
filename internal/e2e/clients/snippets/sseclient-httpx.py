import random
import time

import httpx
from sseclient import SSEClient

last_id = ""
timeout = httpx.Timeout(10, read=45)  # its default, 5 s, is shorter than the time between heartbeats
with httpx.Client(timeout=timeout) as client:
    while True:
        try:
            headers = {"Accept": "text/event-stream"}
            if last_id:
                headers["Last-Event-ID"] = last_id
            with client.stream("GET", url, headers=headers) as response:
                for event in SSEClient(response.iter_bytes()).events():
                    last_id = event.id or last_id
                    show(event.event, event.id, event.data)
            lost("end")
        except httpx.TransportError as error:
            lost(error)
        time.sleep(random.uniform(0.5, 1.5))
