"""Publishes with redis-py. Reads one base64 payload per line, prints the version, then
the number of receivers of each.

    python publish.py REDIS_URL CHANNEL
"""

import base64
import sys
from importlib.metadata import version

import redis

url, channel = sys.argv[1:]

print(version("redis") + ", python " + sys.version.split()[0], flush=True)
with redis.Redis.from_url(url) as client:
    for line in sys.stdin:
        print(client.publish(channel, base64.b64decode(line)), flush=True)
