"""A web server on this machine, with byte ranges and faults on demand, for tests that download."""

import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class WebServer:
    """Serves `files`, path -> content; the attributes say how badly. `requests` logs (path, Range header)."""

    def __init__(self, address):
        self.address = address
        self.files = {}
        self.requests = []
        self.knows_ranges = True
        self.cut_after = []  # for each of the next requests: bytes of the body that are sent before the line is cut
        self.statuses = []  # for each of the next requests: the answer, instead of the file


@contextmanager
def web_server():
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            wanted = self.headers.get("Range")
            server.requests.append((self.path, wanted))
            content = server.files.get(self.path)
            if server.statuses or content is None:
                self.send_error(server.statuses.pop(0) if server.statuses else 404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.knows_ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + server.cut_after.pop(0) if server.cut_after else len(content)
            self.wfile.write(content[start:end])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = WebServer(f"http://127.0.0.1:{http.server_port}")
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
