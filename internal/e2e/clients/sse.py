"""Opens an event stream with a way to read an answer of requests, urllib3 or httpx, and prints
each event as a line of JSON, after a line with the version.

    python sse.py READER URL
"""

import json
import sys
import time
from importlib.metadata import version

name, url = sys.argv[1:]

last_id, retry = "", 1.0


def show(value):
    print(json.dumps(value), flush=True)


def headers():
    h = {"Accept": "text/event-stream"}
    if last_id:
        h["Last-Event-ID"] = last_id
    return h


def with_requests_read1():
    import requests
    from sseclient import SSEClient

    with requests.get(url, headers=headers(), stream=True, timeout=60) as response:
        yield from SSEClient(iter(response.raw.read1, b"")).events()


def with_requests_iter_content():
    import requests
    from sseclient import SSEClient

    with requests.get(url, headers=headers(), stream=True, timeout=60) as response:
        yield from SSEClient(response.iter_content(None)).events()


def with_requests_iter_lines():
    import requests
    from sseclient import SSEClient

    with requests.get(url, headers=headers(), stream=True, timeout=60) as response:
        yield from SSEClient(line + b"\n" for line in response.iter_lines(delimiter=b"\n")).events()


def with_urllib3_stream():
    import urllib3
    from sseclient import SSEClient

    response = urllib3.PoolManager().request("GET", url, headers=headers(), preload_content=False, timeout=60, retries=False)
    yield from SSEClient(response.stream()).events()


def with_httpx_defaults():
    import httpx
    from sseclient import SSEClient

    with httpx.stream("GET", url, headers=headers()) as response:
        yield from SSEClient(response.iter_bytes()).events()


def with_httpx_sse():
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=60) as client, connect_sse(client, "GET", url, headers=headers()) as source:
        yield from source.iter_sse()


clients = {
    "httpx-sse": (with_httpx_sse, ["httpx-sse", "httpx"]),
    "httpx defaults": (with_httpx_defaults, ["httpx"]),
    "requests iter_content": (with_requests_iter_content, ["requests", "urllib3"]),
    "requests iter_lines": (with_requests_iter_lines, ["requests", "urllib3"]),
    "urllib3 stream": (with_urllib3_stream, ["urllib3"]),
    "requests read1": (with_requests_read1, ["requests", "urllib3"]),
}

events, packages = clients[name]
show({"version": ", ".join(p + " " + version(p) for p in packages) + ", python " + sys.version.split()[0]})

while True:
    try:
        for e in events():
            last_id = e.id or last_id
            if e.retry is not None:
                retry = int(e.retry) / 1000
            show({"event": e.event or "message", "id": e.id, "data": e.data})
        show({"lost": "end"})
    except Exception as failed:
        # A connection that could not be made or was cut, as each library calls it.
        if type(failed).__module__.split(".")[0] not in ("requests", "urllib3", "httpx"):
            raise
        show({"lost": str(failed)})
    time.sleep(retry)
