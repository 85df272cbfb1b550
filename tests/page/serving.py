"""A page's server in a thread of this process, and requests to it."""

import contextlib
import http.client
import json
import threading
import time

import app
from common.page import server
from common.page.models import Models

BYTES = {"Content-Type": "application/octet-stream"}


@contextlib.contextmanager
def serving(prefixes, epochs):
    """(models, port) of a server that answers until the block ends."""
    models = Models(prefixes, epochs)
    with app.bind("127.0.0.1", 0) as listening:
        running = server.server(server.application(models, "127.0.0.1"))
        running.install_signal_handlers = lambda: None  # of older uvicorn
        thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield models, listening.getsockname()[1]
        running.should_exit = True
        thread.join()


def ask(port, path, body=None, **headers):
    """(status, headers, content) of a GET, or of a POST of ``body``; JSON is read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    sent = {**(BYTES if body is not None else {}), **named}
    connection.request("GET" if body is None else "POST", path, body, sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.getheader("content-type", "") == "application/json":
        content = json.loads(content)
    return answer.status, answer.headers, content
