import random
import time

import requests
from sseclient import SSEClient

last_id = ""
while True:
    try:
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        with requests.get(url, headers=headers, stream=True, timeout=(10, 45)) as response:
            for event in SSEClient(response).events():
                last_id = event.id or last_id
                show(event.event, event.id, event.data)
        lost("end")
    except requests.RequestException as error:
        lost(error)
    time.sleep(random.uniform(0.5, 1.5))
