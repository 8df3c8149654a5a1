"""A receiver of webhooks for tests: port and secret are its arguments, then for https:// the PEM files of certificate
and key. Answers 500 to the first attempt of each message
and 204 to the next; 401 to a wrong signature. Says on stdout what it took: "took <event> <id> <track>".
"""

import hashlib
import hmac
import http.server
import json
import ssl
import sys
import time

secret = sys.argv[2].encode()
seen = set()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = dict(part.split("=") for part in self.headers["Beltsight-Signature"].split(","))
        wanted = hmac.new(secret, parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        name = self.headers["Beltsight-Id"]
        message = json.loads(body)
        if parts["v1"] != wanted or abs(time.time() - int(parts["t"])) > 60:
            status = 401
        elif name not in seen:
            seen.add(name)
            status = 500
        else:
            status = 204
            print("took", message["event"], name, message.get("track"), flush=True)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("serving", flush=True)
server.serve_forever()
