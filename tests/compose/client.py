"""A producer and a person of the gateway, with the standard library alone."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import socket
import struct
import time


def until(what, check, seconds=90):
    """Polls `check` until it returns something true. Errors of the network count as "not yet"."""
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            found = check()
            if found:
                return found
        except (OSError, http.client.HTTPException, ValueError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}" + (f" (last: {last!r})" if last else ""))
        time.sleep(0.1)


class Producer:
    """A backend that asks over HTTP, and repeats under the same key what it has no answer to."""

    def __init__(self, key, address=("127.0.0.1", 8080)):
        self.key, self.address = key, address

    def call(self, method, path, body=None, timeout=30, **headers):
        """Status and JSON of one request, which is not repeated."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            headers = {"Authorization": f"Bearer {self.key}", **headers}
            if body is not None:
                headers["Content-Type"] = "application/json"
                body = json.dumps(body)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def put(self, user, task, key=None, timeout=30):
        """One attempt to ask; does not wait for the answer."""
        question = {"user_id": user, "task_id": task, "timeout": 240, "on_timeout": "fail",
                    "step_result": {"message": "Go on?", "status": "completed"}}
        return self.call("POST", "/v1/notifications?wait=0", question, timeout, **{"Idempotency-Key": key or task})

    def ask(self, user, task, seconds=60):
        """The id of a question that is open."""

        def attempt():
            status, body = self.put(user, task)
            if status in (502, 503, 504):
                return None
            assert status == 202, f"the question got {status}: {body}"
            return body["callback_id"]

        return until(f"a question of {task} is accepted", attempt, seconds)

    def decision(self, callback, seconds=120):
        """Waits for the answer as a caller does: again with the id, whatever happens to one wait."""

        def attempt():
            status, body = self.call("GET", f"/v1/callbacks/{callback}?wait=10")
            assert status in (200, 202, 502, 503, 504), f"the wait got {status}: {body}"
            return body if status == 200 else None

        return until(f"the decision of {callback}", attempt, seconds)


class Ended(OSError):
    """The connection is over; `code` is that of the close frame, if there was one."""

    def __init__(self, code=None):
        super().__init__(f"the connection ended with {code}")
        self.code = code


class Person:
    """Somebody with one device, who answers over WebSocket and comes back whenever the connection ends."""

    def __init__(self, user, secret, address=("127.0.0.1", 8080)):
        self.user, self.secret, self.address = user, secret, address
        self.socket = None
        self.node = None

    def token(self):
        def part(data):
            return base64.urlsafe_b64encode(data).rstrip(b"=")

        claims = {"sub": self.user, "exp": int(time.time()) + 3600}
        signed = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + b"." + part(json.dumps(claims).encode())
        return (signed + b"." + part(hmac.new(self.secret.encode(), signed, hashlib.sha256).digest())).decode()

    def connect(self, seconds=60):
        until(f"{self.user} is connected", self._dial, seconds)
        return self

    def _dial(self):
        self.close()
        self.buffer = b""
        self.socket = socket.create_connection(self.address, timeout=5)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((
            f"GET /ws HTTP/1.1\r\nHost: {self.address[0]}:{self.address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Authorization: Bearer {self.token()}\r\n\r\n"
        ).encode())
        deadline = time.monotonic() + 5
        while b"\r\n\r\n" not in self.buffer:
            self._receive(deadline)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Ended(head.split(b"\r\n")[0])
        hello = self.next(deadline)
        assert hello["type"] == "connected", hello
        self.node = hello["node_id"]
        return True

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def _receive(self, deadline):
        self.socket.settimeout(max(0.01, deadline - time.monotonic()))
        data = self.socket.recv(65536)
        if not data:
            raise Ended()
        self.buffer += data

    def _frame(self, deadline):
        """Opcode and payload of the next frame; the server's are not masked."""
        while True:
            if len(self.buffer) >= 2:
                length, start = self.buffer[1], 2
                if length == 126 and len(self.buffer) >= 4:
                    length, start = struct.unpack("!H", self.buffer[2:4])[0], 4
                elif length == 127 and len(self.buffer) >= 10:
                    length, start = struct.unpack("!Q", self.buffer[2:10])[0], 10
                elif length >= 126:
                    start = 1 << 62
                if len(self.buffer) >= start + length:
                    opcode, payload = self.buffer[0] & 15, self.buffer[start:start + length]
                    self.buffer = self.buffer[start + length:]
                    return opcode, payload
            self._receive(deadline)

    def _send(self, opcode, payload):
        mask = os.urandom(4)
        length = bytes([128 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
        self.socket.sendall(bytes([128 | opcode]) + length + mask
                            + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)))

    def next(self, deadline):
        """The next message; pings are answered on the way."""
        while True:
            opcode, payload = self._frame(deadline)
            if opcode == 1:
                return json.loads(payload)
            if opcode == 8:
                raise Ended(struct.unpack("!H", payload[:2])[0] if payload else None)
            if opcode == 9:
                self._send(10, payload)

    def confirm(self, callback):
        """Says yes. The same words under the same name are one answer, however often they are sent."""
        confirm = {"action": "confirm", "callback_id": callback, "proceed": True, "answer_id": callback}
        self._send(1, json.dumps(confirm).encode())

    def answer(self, callbacks, seconds=90):
        """Says yes to each of `callbacks` when it is shown, until the gateway has accepted every answer."""
        missing, given, deadline = set(callbacks), set(), time.monotonic() + seconds
        while missing:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(missing)} answers of {self.user} were not accepted within {seconds} s")
            try:
                if self.socket is None:
                    self._dial()
                    # What became of these is not known; they are no longer shown if they counted.
                    for callback in given & missing:
                        self.confirm(callback)
                message = self.next(min(deadline, time.monotonic() + 15))
                callback = message.get("callback_id")
                if callback not in missing:
                    continue
                if message["type"] == "task_step_result":
                    given.add(callback)
                    self.confirm(callback)
                elif message["type"] == "confirmation_accepted":
                    missing.discard(callback)
                elif message["type"] == "confirmation_rejected":
                    assert message["reason"] == "unavailable", message
                    raise Ended(message["reason"])
            except OSError:
                # Back to any node, which shows every open question again.
                self.close()
                time.sleep(0.1)

    def hear_end(self, seconds=60):
        """The close code with which the gateway ends this connection."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                self.next(deadline)
        except Ended as ended:
            self.close()
            return ended.code
