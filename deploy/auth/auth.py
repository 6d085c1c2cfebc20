#!/usr/bin/env python3
"""An example service for --auth-url, in Python (standard library only).

    SESSION_SECRET=... python3 auth.py 127.0.0.1:9200
    ssed --auth-url http://127.0.0.1:9200/

A session cookie is "user|end|signature", see session() below. Take your own sessions
instead. What matters is what this decides on: X-SSE-Channels and nothing else.
"""

import hashlib
import hmac
import os
import sys
import time
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

SECRET = os.environ["SESSION_SECRET"].encode()


def session(cookies):
    """The user of the session cookie and when it ends; (None, 0) without a valid one."""
    morsel = SimpleCookie(cookies).get("session")
    try:
        user, end, signature = unquote(morsel.value).split("|")
        valid = hmac.new(SECRET, f"{user}|{end}".encode(), hashlib.sha256).hexdigest()
        if hmac.compare_digest(valid, signature) and int(end) > time.time():
            return user, int(end)
    except (AttributeError, TypeError, ValueError):
        pass
    return None, 0


def may_have(user, channel):
    """Everyone with a session may have news:..., and the channel of their own."""
    return channel.startswith("news:") or channel == "user:" + user


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        user, end = session(self.headers.get("Cookie", ""))
        # Names are percent-encoded and joined by commas.
        channels = [unquote(c) for c in self.headers["X-SSE-Channels"].split(",")]
        if user is None:
            self.answer(401, {})
        elif not all(may_have(user, c) for c in channels):
            self.answer(403, {})
        else:
            self.answer(204, {"X-SSE-Subject": quote(user), "X-SSE-Expires": str(end)})

    def answer(self, status, fields):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    host, port = sys.argv[1].rsplit(":", 1)
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
