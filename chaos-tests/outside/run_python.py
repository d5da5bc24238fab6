"""Runs scenario.json against a running development mesh, over WebSocket and over WebTransport.

The ready line of `hearth dev --json` is on standard input; the vocabulary is in README.md. One line per scenario;
exit 0 when all hold, 1 when one does not, 2 when it could not run.
"""
import argparse
import asyncio
import base64
import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.request
import uuid

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from python_transports import WebSocket, WebTransport

TRANSPORTS = {"websocket": WebSocket, "webtransport": WebTransport}
HERE = pathlib.Path(__file__).resolve().parent
VARIABLE = re.compile(r"\$([A-Za-z][A-Za-z0-9]*)")
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]+)?")
DEFAULT_WITHIN_MS = 10_000
FRAMES_IN_A_REPORT = 8


class Failed(Exception):
    """A step that did not hold; the text says what was expected."""


def http(method, url, body=None, token=None):
    """(status, JSON or None), blocking."""
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    if token:
        request.add_header("authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    try:
        return status, json.loads(text) if text else None
    except ValueError:
        return status, None


def at_path(value, path):
    """The value at a dotted path, None where there is none; `#` is a list's length."""
    for part in path.split("."):
        if isinstance(value, list) and part == "#":
            value = len(value)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return None
    return value


def holds(found, wanted):
    if isinstance(wanted, dict):
        if "present" in wanted:
            return (found is not None) == wanted["present"]
        if "atLeast" in wanted:
            return isinstance(found, (int, float)) and found >= wanted["atLeast"]
        if "oneOf" in wanted:
            return found in wanted["oneOf"]
    # True is no number here, though Python thinks so.
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def matches(value, where):
    return all(holds(at_path(value, path), wanted) for path, wanted in (where or {}).items())


def without_secrets(value):
    if isinstance(value, dict):
        return {k: "…" if k in ("token", "resumeToken") else without_secrets(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_secrets(v) for v in value]
    return TOKEN.sub("…", value) if isinstance(value, str) else value


class Client:
    """One connection and its unread frames."""

    def __init__(self, transport):
        self.transport, self.unread, self.last, self.ended = transport, [], [], False
        self.changed = asyncio.Condition()

    async def read(self):
        try:
            while (text := await self.transport.receive()) is not None:
                frame = json.loads(text)
                async with self.changed:
                    self.unread.append(frame)
                    self.last = [*self.last, frame][-FRAMES_IN_A_REPORT:]
                    self.changed.notify_all()
        finally:
            async with self.changed:
                self.ended = True
                self.changed.notify_all()

    async def until(self, look, within_ms, otherwise):
        """What `look` gives once it gives something; `Failed(otherwise)` at the end of time or of the connection."""
        async def wait():
            async with self.changed:
                while True:
                    if (found := look()) is not None:
                        return found
                    if self.ended:
                        raise Failed(f"{otherwise} (the connection ended, code {self.transport.close_code})")
                    await self.changed.wait()
        try:
            return await asyncio.wait_for(wait(), within_ms / 1000)
        except asyncio.TimeoutError:
            raise Failed(f"{otherwise} within {within_ms} ms") from None


class Run:
    """One run of one scenario over one transport."""

    def __init__(self, mesh, transport):
        self.regions = mesh["regions"]
        self.variables = {"transport": transport, "run": uuid.uuid4().hex[:8]}
        self.variables.update({f"region{i}": region["id"] for i, region in enumerate(self.regions)})
        self.clients, self.tokens, self.tasks, self.opened, self.cut = {}, {}, [], [], []

    def filled(self, value):
        """The value with its variables replaced."""
        if isinstance(value, dict):
            return {self.filled(k): self.filled(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.filled(v) for v in value]
        if not isinstance(value, str):
            return value
        names = VARIABLE.findall(value)
        unbound = [name for name in names if name not in self.variables]
        if unbound:
            raise Failed(f"variable ${unbound[0]} is bound by an earlier step")
        if len(names) == 1 and value == f"${names[0]}":
            return self.variables[names[0]]
        return VARIABLE.sub(lambda match: str(self.variables[match[1]]), value)

    def bind(self, value, bindings):
        for name, path in (bindings or {}).items():
            self.variables[name] = at_path(value, path)
            if self.variables[name] is None:
                raise Failed(f"something at {path} to bind ${name} to")

    async def token(self, user, region):
        if user not in self.tokens:
            status, body = await asyncio.to_thread(http, "POST", f"{self.regions[region]['http']}/api/v1/dev/tokens", {"userId": user})
            if status != 200:
                raise Failed(f"a dev token for {user}, got {status} {body}")
            self.tokens[user] = body["token"]
        return self.tokens[user]

    async def do_note(self, step):
        pass

    async def do_connect(self, step):
        transport = TRANSPORTS[step["transport"]]()
        token = step.get("token") or await self.token(step["user"], step["region"])
        payload = {"token": token, "deviceId": step.get("device") or str(uuid.uuid4())}
        payload.update({k: step[k] for k in ("resumeToken", "cursors") if k in step})
        if "deviceAs" in step:
            self.variables[step["deviceAs"]] = payload["deviceId"]
        try:
            await asyncio.wait_for(transport.open(self.regions[step["region"]]), 10)
        except (OSError, asyncio.TimeoutError, InvalidHandshake) as error:
            raise Failed(f"a {step['transport']} connection: {error!r}") from error
        client = self.clients[step["client"]] = Client(transport)
        self.opened.append(client)
        self.tasks.append(asyncio.create_task(client.read()))
        await transport.send(json.dumps({"type": "auth", "payload": payload}))

    async def do_send(self, step):
        message = step.get("message") or str(uuid.uuid4())
        if "as" in step:
            self.variables[step["as"]] = message
        payload = {"messageId": message, "conversationId": step["conversation"], "content": {"type": "text", "text": step["text"]}}
        await self.clients[step["client"]].transport.send(json.dumps({"type": "message.send", "id": message, "payload": payload}))

    async def do_frame(self, step):
        await self.clients[step["client"]].transport.send(json.dumps(step["frame"]))

    async def do_expect(self, step):
        client = self.clients[step["client"]]

        def look():
            for i, frame in enumerate(client.unread):
                if frame.get("type") == step["type"] and matches(frame, step.get("where")):
                    return client.unread.pop(i)
            return None
        wanted = f"{step['type']} with {json.dumps(step.get('where', {}))}"
        frame = await client.until(look, step.get("within", DEFAULT_WITHIN_MS), wanted)
        self.bind(frame, step.get("bind"))

    async def do_expectInOrder(self, step):
        client, wanted = self.clients[step["client"]], step["frames"]
        types = {frame["type"] for frame in wanted}

        def look():
            found = [frame for frame in client.unread if frame.get("type") in types][:len(wanted)]
            for i, (frame, want) in enumerate(zip(found, wanted)):
                if frame["type"] != want["type"] or not matches(frame, want.get("where")):
                    raise Failed(f"frame {i + 1} of {len(wanted)} to be {want['type']} with {json.dumps(want.get('where', {}))}, got {json.dumps(without_secrets(frame))}")
            return found if len(found) == len(wanted) else None
        found = await client.until(look, step.get("within", DEFAULT_WITHIN_MS), f"{len(wanted)} frames in order: {json.dumps(wanted)}")
        client.unread = [frame for frame in client.unread if not any(frame is taken for taken in found)]

    async def do_expectNone(self, step):
        for frame in self.clients[step["client"]].unread:
            if frame.get("type") == step["type"] and matches(frame, step.get("where")):
                raise Failed(f"no such frame, got {json.dumps(without_secrets(frame))}")

    async def do_expectClosed(self, step):
        client = self.clients[step["client"]]
        await client.until(lambda: client.ended or None, step.get("within", DEFAULT_WITHIN_MS), "the end of the connection")
        code = client.transport.close_code
        if "code" in step and code is not None and code != step["code"]:
            raise Failed(f"close code {step['code']}, got {code}")

    async def do_rest(self, step):
        token = await self.token(step["user"], step["region"])
        status, body = await asyncio.to_thread(http, step["method"], self.regions[step["region"]]["http"] + step["path"], step.get("body"), token)
        if status not in step["status"] or not matches(body, step.get("where")):
            raise Failed(f"status {step['status']} with {json.dumps(step.get('where', {}))}, got {status} {json.dumps(without_secrets(body))}")
        self.bind(body, step.get("bind"))

    async def do_link(self, step):
        ends = [self.regions[step["from"]], self.regions[step["to"]]]
        body = {"from": ends[0]["id"], "to": ends[1]["id"], "state": step["state"], "both": True}
        status, answer = await asyncio.to_thread(http, "POST", f"{ends[0]['http']}/api/v1/dev/links", body)
        self.cut = [link for link in self.cut if link != (step["from"], step["to"])]
        if step["state"] == "cut":
            self.cut.append((step["from"], step["to"]))
        if status != 200:
            raise Failed(f"the link to be {step['state']}, got {status} {answer}")

    async def do_close(self, step):
        await self.clients[step["client"]].transport.leave()

    def report(self, scenario, number, note, step, why):
        print(f"FAILED {scenario} over {self.variables['transport']}, step {number} ({note})")
        print(f"  step: {json.dumps(without_secrets(step), ensure_ascii=False)}")
        print(f"  expected: {TOKEN.sub('…', str(why))}")
        names = [step["client"]] if step.get("client") in self.clients else self.clients
        for name in names:
            print(f"  last frames of {name}:")
            for frame in self.clients[name].last:
                print(f"    {json.dumps(without_secrets(frame), ensure_ascii=False)}")

    async def play(self, scenario):
        note, began = "", time.monotonic()
        try:
            for number, raw in enumerate(scenario["steps"], 1):
                if raw["do"] == "note":
                    note = raw["text"]
                try:
                    await getattr(self, f"do_{raw['do']}")(self.filled(raw))
                except (Failed, OSError, ConnectionClosed) as why:
                    self.report(scenario["name"], number, note, raw, why)
                    return False
            print(f"ok {scenario['name']} over {self.variables['transport']}, Python: {len(scenario['steps'])} steps in {time.monotonic() - began:.1f} s")
            return True
        finally:
            # A run that failed behind a cut leaves the mesh whole for the next one.
            for start, end in list(self.cut):
                await self.do_link({"from": start, "to": end, "state": "up"})
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for client in self.opened:
                await client.transport.end()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transport", choices=TRANSPORTS, help="only this one")
    parser.add_argument("--scenario", default=HERE / "scenario.json", type=pathlib.Path)
    options = parser.parse_args()
    scenario = json.loads(options.scenario.read_text())
    ready = next((line for line in sys.stdin if line.lstrip().startswith("{")), None)
    mesh = json.loads(ready) if ready else {}
    if len(mesh.get("regions", [])) < scenario["regions"]:
        print(f"could not run: standard input has no ready line with {scenario['regions']} regions or more")
        return 2
    for region in mesh["regions"]:
        _, transports = await asyncio.to_thread(http, "GET", f"{region['http']}/transport.json")
        region["certificateHashes"] = [base64.b64decode(row["value"]) for row in transports["webtransport"]["certificateHashes"]]
    held = [await Run(mesh, transport).play(scenario) for transport in ([options.transport] if options.transport else TRANSPORTS)]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
