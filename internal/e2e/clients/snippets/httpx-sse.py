import random
import time

import httpx
from httpx_sse import connect_sse

last_id = ""
timeout = httpx.Timeout(10, read=45)  # its default, 5 s, is shorter than the time between heartbeats
with httpx.Client(timeout=timeout) as client:
    while True:
        try:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            with connect_sse(client, "GET", url, headers=headers) as source:
                for event in source.iter_sse():
                    last_id = event.id or last_id
                    if event.data:  # it shows a block without data, too
                        show(event.event, event.id, event.data)
            lost("end")
        except httpx.TransportError as error:
            lost(error)
        time.sleep(random.uniform(0.5, 1.5))
