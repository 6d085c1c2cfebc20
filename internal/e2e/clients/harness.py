"""Runs a snippet and prints what it shows, a line of JSON each, after a line with the
versions of its packages.

    python harness.py SNIPPET URL PACKAGE...
"""

import json
import runpy
import sys
from importlib.metadata import version

snippet, url, *packages = sys.argv[1:]


def show(event, event_id, data):
    print(json.dumps({"event": event, "id": event_id, "data": data}), flush=True)


def lost(why):
    print(json.dumps({"lost": str(why) or type(why).__name__}), flush=True)


print(json.dumps({"version": ", ".join(p + " " + version(p) for p in packages) + ", python " + sys.version.split()[0]}), flush=True)
runpy.run_path(snippet, init_globals={"url": url, "show": show, "lost": lost})
