// Runs scenario.json in headless Chromium, over the browser's own WebSocket and WebTransport.
//
// The ready line of `hearth dev --json` is on standard input; the vocabulary is in README.md. One line per scenario;
// exit 0 when all hold, 1 when one does not, 2 when it could not run.

import { randomBytes, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { isDeepStrictEqual, parseArgs } from "node:util";
import { readMesh, withPage, withoutSecrets } from "./browser.mjs";

const TRANSPORTS = ["websocket", "webtransport"];
const DEFAULT_WITHIN_MS = 10_000;
const FRAMES_IN_A_REPORT = 8;
const show = (value) => JSON.stringify(withoutSecrets(value));

// A step that did not hold; the message says what was expected.
class Failed extends Error {}

// The value at a dotted path, undefined where there is none; `#` is an array's length.
function atPath(value, path) {
  return path.split(".").reduce((inner, part) => {
    if (inner === null || typeof inner !== "object") return undefined;
    if (Array.isArray(inner)) return part === "#" ? inner.length : inner[part];
    return Object.hasOwn(inner, part) ? inner[part] : undefined;
  }, value);
}

function holds(found, wanted) {
  if (wanted !== null && typeof wanted === "object") {
    if ("present" in wanted) return (found !== undefined && found !== null) === wanted.present;
    if ("atLeast" in wanted) return typeof found === "number" && found >= wanted.atLeast;
    if ("oneOf" in wanted) return wanted.oneOf.some((one) => isDeepStrictEqual(found, one));
  }
  return isDeepStrictEqual(found, wanted);
}

function matches(value, where = {}) {
  return Object.entries(where).every(([path, wanted]) => holds(atPath(value, path), wanted));
}

async function http(method, url, body, token) {
  const headers = { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  let json = null;
  try {
    json = JSON.parse(text);
  } catch {
    // An answer without JSON is judged by its status alone.
  }
  return { status: answer.status, body: json };
}

// One connection in the page, and its unread frames.
class Client {
  constructor(key) {
    Object.assign(this, { key, unread: [], last: [], ended: false, code: null, waiting: null });
  }

  got(frame) {
    this.unread.push(frame);
    this.last = [...this.last, frame].slice(-FRAMES_IN_A_REPORT);
    this.waiting?.();
  }

  end(code) {
    Object.assign(this, { ended: true, code });
    this.waiting?.();
  }

  // What look() gives once it gives something; fails at the end of time or of the connection.
  async until(look, within, otherwise) {
    const end = Date.now() + within;
    for (;;) {
      const found = look();
      if (found !== undefined) return found;
      if (this.ended) throw new Failed(`${otherwise} (the connection ended, code ${this.code})`);
      const left = end - Date.now();
      if (left <= 0) throw new Failed(`${otherwise} within ${within} ms`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        this.waiting = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

// One run of one scenario over one transport.
class Run {
  constructor(mesh, transport, page, connections) {
    Object.assign(this, { regions: mesh.regions, page, connections, clients: {}, tokens: {}, cut: [] });
    this.variables = { transport, run: randomBytes(4).toString("hex") };
    mesh.regions.forEach((region, i) => { this.variables[`region${i}`] = region.id; });
  }

  // The value with its variables replaced.
  filled(value) {
    if (Array.isArray(value)) return value.map((inner) => this.filled(inner));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [this.filled(k), this.filled(v)]));
    }
    if (typeof value !== "string") return value;
    const named = (name) => {
      if (!Object.hasOwn(this.variables, name)) throw new Failed(`variable $${name} is bound by an earlier step`);
      return this.variables[name];
    };
    const alone = /^\$([A-Za-z][A-Za-z0-9]*)$/.exec(value);
    return alone ? named(alone[1]) : value.replace(/\$([A-Za-z][A-Za-z0-9]*)/g, (_, name) => String(named(name)));
  }

  bind(value, bindings = {}) {
    for (const [name, path] of Object.entries(bindings)) {
      this.variables[name] = atPath(value, path);
      if (this.variables[name] === undefined) throw new Failed(`something at ${path} to bind $${name} to`);
    }
  }

  async token(user, region) {
    if (!this.tokens[user]) {
      const { status, body } = await http("POST", `${this.regions[region].http}/api/v1/dev/tokens`, { userId: user });
      if (status !== 200) throw new Failed(`a dev token for ${user}, got ${status} ${show(body)}`);
      this.tokens[user] = body.token;
    }
    return this.tokens[user];
  }

  put(client, frame) {
    return this.page.evaluate(([key, text]) => hearthClients.send(key, text), [client.key, JSON.stringify(frame)]);
  }

  report(scenario, number, note, step, why) {
    console.log(`FAILED ${scenario} over ${this.variables.transport}, step ${number} (${note})`);
    console.log(`  step: ${show(step)}`);
    console.log(`  expected: ${withoutSecrets(why)}`);
    for (const name of this.clients[step.client] ? [step.client] : Object.keys(this.clients)) {
      console.log(`  last frames of ${name}:`);
      this.clients[name].last.forEach((frame) => console.log(`    ${show(frame)}`));
    }
  }

  async play(scenario) {
    let note = "";
    const began = Date.now();
    for (const [i, raw] of scenario.steps.entries()) {
      if (raw.do === "note") note = raw.text;
      try {
        if (!Object.hasOwn(STEPS, raw.do)) throw new Failed(`a step that this runner knows, got ${raw.do}`);
        const step = this.filled(raw);
        await STEPS[raw.do](this, step, this.clients[step.client]);
      } catch (error) {
        this.report(scenario.name, i + 1, note, raw, error.message);
        // A run that failed behind a cut leaves the mesh whole for the next one.
        for (const link of [...this.cut]) await STEPS.link(this, { ...link, state: "up" });
        return false;
      }
    }
    console.log(`ok ${scenario.name} over ${this.variables.transport}, Chromium: ${scenario.steps.length} steps in ${((Date.now() - began) / 1000).toFixed(1)} s`);
    return true;
  }
}

const fits = (frame, { type, where }) => frame.type === type && matches(frame, where);

const STEPS = {
  async note() {},

  async connect(run, step) {
    const region = run.regions[step.region];
    const token = step.token ?? await run.token(step.user, step.region);
    const payload = { token, deviceId: step.device ?? randomUUID() };
    for (const name of ["resumeToken", "cursors"]) if (name in step) payload[name] = step[name];
    if (step.deviceAs) run.variables[step.deviceAs] = payload.deviceId;
    const client = new Client(randomUUID());
    run.clients[step.client] = client;
    run.connections.set(client.key, client);
    await run.page.evaluate(([key, kind, where]) => hearthClients.open(key, kind, where), [client.key, step.transport, region]);
    await run.put(client, { type: "auth", payload });
  },

  async send(run, step, client) {
    const messageId = step.message ?? randomUUID();
    if (step.as) run.variables[step.as] = messageId;
    const content = { type: "text", text: step.text };
    await run.put(client, { type: "message.send", id: messageId, payload: { messageId, conversationId: step.conversation, content } });
  },

  async frame(run, step, client) {
    await run.put(client, step.frame);
  },

  async expect(run, step, client) {
    const look = () => {
      const i = client.unread.findIndex((frame) => fits(frame, step));
      return i < 0 ? undefined : client.unread.splice(i, 1)[0];
    };
    const frame = await client.until(look, step.within ?? DEFAULT_WITHIN_MS, `${step.type} with ${show(step.where ?? {})}`);
    run.bind(frame, step.bind);
  },

  async expectInOrder(_run, step, client) {
    const wanted = step.frames;
    const types = new Set(wanted.map(({ type }) => type));
    const look = () => {
      const found = client.unread.filter(({ type }) => types.has(type)).slice(0, wanted.length);
      const odd = found.findIndex((frame, i) => !fits(frame, wanted[i]));
      if (odd >= 0) throw new Failed(`frame ${odd + 1} of ${wanted.length} to be ${show(wanted[odd])}, got ${show(found[odd])}`);
      return found.length === wanted.length ? found : undefined;
    };
    const found = await client.until(look, step.within ?? DEFAULT_WITHIN_MS, `${wanted.length} frames in order: ${show(wanted)}`);
    client.unread = client.unread.filter((frame) => !found.includes(frame));
  },

  async expectNone(_run, step, client) {
    const found = client.unread.find((frame) => fits(frame, step));
    if (found) throw new Failed(`no such frame, got ${show(found)}`);
  },

  async expectClosed(_run, step, client) {
    await client.until(() => client.ended || undefined, step.within ?? DEFAULT_WITHIN_MS, "the end of the connection");
    if (step.code !== undefined && client.code !== null && client.code !== step.code) {
      throw new Failed(`close code ${step.code}, got ${client.code}`);
    }
  },

  async rest(run, step) {
    const token = await run.token(step.user, step.region);
    const { status, body } = await http(step.method, run.regions[step.region].http + step.path, step.body, token);
    if (!step.status.includes(status) || !matches(body, step.where)) {
      throw new Failed(`status ${step.status} with ${show(step.where ?? {})}, got ${status} ${show(body)}`);
    }
    run.bind(body, step.bind);
  },

  async link(run, step) {
    const [from, to] = [run.regions[step.from], run.regions[step.to]];
    const { status, body } = await http("POST", `${from.http}/api/v1/dev/links`, { from: from.id, to: to.id, state: step.state, both: true });
    run.cut = run.cut.filter((link) => link.from !== step.from || link.to !== step.to);
    if (step.state === "cut") run.cut.push(step);
    if (status !== 200) throw new Failed(`the link to be ${step.state}, got ${status} ${show(body)}`);
  },

  async close(run, _step, client) {
    await run.page.evaluate((key) => hearthClients.leave(key), client.key);
  },
};

async function main() {
  const { values: options } = parseArgs({ options: { transport: { type: "string" }, scenario: { type: "string" } } });
  const scenario = JSON.parse(await readFile(options.scenario ?? new URL("scenario.json", import.meta.url), "utf8"));
  const mesh = await readMesh(scenario.regions);
  for (const region of mesh.regions) {
    const { body } = await http("GET", `${region.http}/transport.json`);
    region.certificateHashes = body.webtransport.certificateHashes;
  }
  return withPage({}, async (page) => {
    const connections = new Map();
    await page.exposeFunction("hearthFrame", (key, text) => connections.get(key)?.got(JSON.parse(text)));
    await page.exposeFunction("hearthEnd", (key, code) => connections.get(key)?.end(code));
    await page.addInitScript({ path: new URL("page_clients.js", import.meta.url).pathname });
    // Any document of the mesh will do: it gives the page an origin that the regions let in.
    await page.goto(`${mesh.regions[0].http}/transport.json`);
    let held = true;
    for (const transport of options.transport ? [options.transport] : TRANSPORTS) {
      held = await new Run(mesh, transport, page, connections).play(scenario) && held;
    }
    return held ? 0 : 1;
  });
}

main().then((code) => process.exit(code), (error) => {
  console.log(`could not run: ${error.message}`);
  process.exit(2);
});
