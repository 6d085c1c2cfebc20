import json
import time

import jwt
import redis
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.http import require_POST

r = redis.Redis.from_url(settings.REDIS_URL)


def set_stream_cookie(response, user):  # call it where a user has logged in
    claims = {"sub": str(user), "channels": [f"user:{user}"], "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, settings.SSED_AUTH_JWT_SECRET, "HS256")
    response.set_cookie("sse", token, httponly=True, samesite="Lax")
    return response


@require_POST
def login(request):
    return set_stream_cookie(HttpResponse(), int(request.GET["user"]))


@require_POST
def pay(request, order):
    event = {"event": "order.paid", "id": f"order-{order}", "data": {"order": order}}
    r.publish(f"user:{request.GET['user']}", json.dumps(event))
    return HttpResponse()


urlpatterns = [path("login", login), path("orders/<int:order>/pay", pay)]
