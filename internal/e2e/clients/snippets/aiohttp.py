import asyncio
import random

import aiohttp


async def events(response):
    """The events of an answer: type, id and data of each."""
    kind, event_id, data = "", "", []
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id":
            event_id = value
        elif name == "data":
            data.append(value)
        elif line == b"\n":
            if data:
                yield kind or "message", event_id, "\n".join(data)
            kind, data = "", []


async def main():
    last_id = ""
    # By default it ends every answer after 5 minutes, and takes no line over 128 KiB.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=45)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**20) as session:
        while True:
            try:
                headers = {"Accept": "text/event-stream"}
                if last_id:
                    headers["Last-Event-ID"] = last_id
                async with session.get(url, headers=headers) as response:
                    async for kind, event_id, data in events(response):
                        last_id = event_id or last_id
                        show(kind, event_id, data)
                lost("end")
            except (aiohttp.ClientError, TimeoutError) as error:
                lost(error)
            await asyncio.sleep(random.uniform(0.5, 1.5))


asyncio.run(main())
