import json
import os
import time

import jwt
import redis.asyncio as redis
from fastapi import FastAPI, Response

app = FastAPI()
r = redis.from_url(os.environ["REDIS_URL"])
secret = os.environ["SSED_AUTH_JWT_SECRET"]


@app.post("/login")  # yours, once you know who it is
async def login(user: int, response: Response):
    claims = {"sub": str(user), "channels": [f"user:{user}"], "exp": int(time.time()) + 3600}
    response.set_cookie("sse", jwt.encode(claims, secret, "HS256"), httponly=True, samesite="lax")


@app.post("/orders/{order}/pay")
async def pay(order: int, user: int):
    event = {"event": "order.paid", "id": f"order-{order}", "data": {"order": order}}
    await r.publish(f"user:{user}", json.dumps(event))
