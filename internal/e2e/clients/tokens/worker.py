import json

import redis

client = redis.Redis.from_url("redis://localhost:6379")
for text in tokens:  # as the model gives them
    client.publish("run:1", json.dumps({"event": "token", "data": text}))
client.publish("run:1", json.dumps({"event": "done", "data": "stop"}))
