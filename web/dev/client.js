// One client of the contract: a WebSocket session that resumes, its outbox, and what it knows of one conversation.
//
// It draws nothing; page.js does. REST goes to the page's own origin, because every region answers for all.

const FIRST_PAGE = 50;
const PAGE_LIMIT = 200;
const ROWS_KEPT = 2000;
const OUTBOX_LIMIT = 200;
const HOLE_PATIENCE_MS = 1000;
const BACKOFF_FIRST_MS = 250;
const BACKOFF_CAP_MS = 10_000;
const CLOSES_THAT_STAY_CLOSED = [4001, 4003];
// Errors after which the same message may be sent again; every other one is final.
const PASSING_ERRORS = ["RATE_LIMITED", "OVERLOADED", "STORE_UNAVAILABLE", "DRAINING", "HOME_UNREACHABLE", "INTERNAL"];

// ---------------------------------------------------------------- REST

export async function rest(method, path, body, token) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path.split("?")[0]}: ${answer.status} ${text.slice(0, 120)}`);
  return text === "" ? null : JSON.parse(text);
}

const tokens = new Map();

export async function tokenFor(user) {
  const known = tokens.get(user);
  if (known && Date.now() < known.until) return known.token;
  const { token, expiresAt } = await rest("POST", "/api/v1/dev/tokens", { userId: user });
  // A minute early, so that no connection starts with a token about to end.
  tokens.set(user, { token, until: new Date(expiresAt).getTime() - 60_000 });
  return token;
}

// ---------------------------------------------------------------- what a pane knows of the conversation

// Rows by sequence number. `complete` is the last number below which nothing is missing, null before the first page.
class Timeline {
  rows = new Map();
  complete = null;

  begin(firstSequence) {
    this.complete = firstSequence - 1;
    this.advance();
  }

  add(row) {
    const known = this.rows.get(row.sequenceNumber);
    if (known && (known.epoch ?? 0) > (row.epoch ?? 0)) return;
    this.rows.set(row.sequenceNumber, known?.messageId === row.messageId ? { ...known, ...row } : row);
    this.advance();
    if (this.rows.size > ROWS_KEPT) this.trim();
  }

  // Numbers that this user may not see count as known, so that they leave no hole.
  withhold({ from, to }) {
    for (let n = Math.max(from, (this.complete ?? 0) + 1); n <= to; n++) {
      if (!this.rows.has(n)) this.rows.set(n, { sequenceNumber: n, kind: "withheld" });
    }
    this.advance();
  }

  rewind(epoch, afterSequence) {
    for (const [n, row] of this.rows) {
      if (n > afterSequence && (row.epoch ?? 0) < epoch) this.rows.delete(n);
    }
    if (this.complete !== null) this.begin(Math.min(this.complete, afterSequence) + 1);
  }

  advance() {
    while (this.complete !== null && this.rows.has(this.complete + 1)) this.complete += 1;
  }

  // Only what lies below `complete` goes, so that a hole is never forgotten.
  trim() {
    for (const n of this.sequences()) {
      if (this.rows.size <= ROWS_KEPT || n >= this.complete) return;
      this.rows.delete(n);
    }
  }

  sequences() {
    return [...this.rows.keys()].sort((a, b) => a - b);
  }

  hasHole() {
    return this.complete !== null && this.sequences().some((n) => n > this.complete);
  }

  cursor(conversationId) {
    const epoch = this.rows.get(this.complete)?.epoch;
    return { conversationId, lastSequence: this.complete, ...(epoch === undefined ? {} : { epoch }) };
  }
}

// What was written here and has no number yet, in the order of writing; kept over a reload of this tab.
class Outbox {
  constructor(user, conversationId) {
    this.key = `hearth-outbox-${user}-${conversationId}`;
    this.entries = JSON.parse(sessionStorage.getItem(this.key) ?? "[]");
  }

  save() {
    sessionStorage.setItem(this.key, JSON.stringify(this.entries));
  }

  push(entry) {
    this.entries.push(entry);
    this.save();
  }

  find(messageId) {
    return this.entries.find((entry) => entry.messageId === messageId);
  }

  take(messageId) {
    const entry = this.find(messageId);
    this.entries = this.entries.filter((other) => other !== entry);
    if (entry) this.save();
    return entry;
  }

  mark(messageId, state, why) {
    const entry = this.find(messageId);
    if (entry) Object.assign(entry, { state, why });
    this.save();
  }

  unanswered() {
    return this.entries.filter((entry) => entry.state !== "refused");
  }
}

function newId() {
  return crypto.randomUUID();
}

function deviceOf(user) {
  const key = `hearth-device-${user}`;
  const id = sessionStorage.getItem(key) ?? newId();
  sessionStorage.setItem(key, id);
  return id;
}

export function fullJitter(attempt) {
  return Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_FIRST_MS * 2 ** attempt);
}

export function copiesInWords(durability) {
  if (!durability) return "acked";
  const regions = Array.isArray(durability.regions) ? durability.regions.join(", ") : durability.regions;
  return `durability ${durability.level}, held by ${regions}`;
}

const QUEUED_IN_WORDS = {
  HOME_UNREACHABLE: (home) => `home ${home} is out of reach`,
  HOME_MOVING: (home) => `the home is moving to ${home}`,
  COPIES_MISSING: (home) => `home ${home} waits for copies in other regions`,
};

// ---------------------------------------------------------------- one person's connection

export class Session {
  constructor(user, region, mesh, onChange) {
    Object.assign(this, { user, region, mesh, onChange });
    this.deviceId = deviceOf(user);
    this.timeline = new Timeline();
    this.outbox = new Outbox(user, mesh.group);
    this.state = "resuming";
    this.at = region.id;
    this.said = "";
    this.attempt = 0;
    this.live = false;
    this.heldUntil = 0;
    this.requests = 0;
    this.turn = 0;
    this.moreBefore = false;
    // Regions that the one connected to says it does not reach.
    this.unreached = new Set();
  }

  say(text) {
    this.said = text;
    this.onChange();
  }

  become(state, text) {
    this.state = state;
    this.say(text);
  }

  // The wished region first; after two failures the others in turn, as the server ordered them.
  nextRegion() {
    if (this.attempt < 2) return this.region;
    const others = (this.endpoints ?? []).map((endpoint) => this.mesh.regions.find((r) => r.id === endpoint.region))
      .filter((region) => region && region !== this.region);
    const turn = [...(others.length ? others : this.mesh.regions.filter((r) => r !== this.region)), this.region];
    return turn[(this.attempt - 2) % turn.length];
  }

  moveTo(region) {
    this.region = region;
    this.attempt = 0;
    this.reconnect(0, `moving to ${region.id}`);
  }

  // Lets go of the present socket, whatever its state, and connects after the delay.
  reconnect(delayMs, why) {
    const old = this.socket;
    this.socket = null;
    this.live = false;
    if (old && old.readyState <= WebSocket.OPEN) old.close(1000);
    clearInterval(this.beat);
    clearTimeout(this.timer);
    clearTimeout(this.drainTimer);
    this.turn += 1;
    this.timer = setTimeout(() => this.connect(), delayMs);
    this.become("resuming", why);
  }

  async connect() {
    const region = this.nextRegion();
    this.at = region.id;
    this.turn += 1;
    const turn = this.turn;
    let token;
    try {
      token = await tokenFor(this.user);
    } catch (error) {
      if (turn === this.turn) this.again(`no token: ${error.message}`);
      return;
    }
    if (turn !== this.turn) return;
    const socket = new WebSocket(region.ws);
    this.socket = socket;
    let farewell = null;
    socket.onopen = () => socket.send(JSON.stringify({ type: "auth", payload: this.credentials(token) }));
    socket.onmessage = (event) => {
      if (socket !== this.socket) return;
      this.heardAt = Date.now();
      const frame = JSON.parse(event.data);
      if (frame.type === "close") farewell = frame;
      // A frame of an unknown type is ignored, as the contract asks.
      if (Object.hasOwn(HANDLERS, frame.type)) HANDLERS[frame.type](this, frame.payload ?? {}, frame);
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.closed(farewell?.code ?? event.code, farewell?.reason ?? event.reason);
    };
  }

  credentials(token) {
    const payload = { token, deviceId: this.deviceId };
    if (this.resumeToken) payload.resumeToken = this.resumeToken;
    if (this.timeline.complete !== null) payload.cursors = [this.timeline.cursor(this.mesh.group)];
    return payload;
  }

  closed(code, reason) {
    if (code === 4011) tokens.delete(this.user);
    if (CLOSES_THAT_STAY_CLOSED.includes(code)) {
      this.live = false;
      clearInterval(this.beat);
      this.become("closed", `closed for good: ${code} ${reason || ""}; reload the page`);
      return;
    }
    this.again(`connection to ${this.at} ended (${code}${reason ? ` ${reason}` : ""})`);
  }

  again(why) {
    const delay = fullJitter(this.attempt);
    this.attempt += 1;
    this.reconnect(delay, `${why}, next try in ${(delay / 1000).toFixed(1)} s`);
  }

  begin(frame) {
    this.attempt = 0;
    this.live = true;
    this.unreached.clear();
    this.resumeToken = frame.resumeToken;
    this.endpoints = frame.endpoints;
    this.at = frame.region ?? this.at;
    const interval = frame.heartbeatInterval ?? 30_000;
    clearInterval(this.beat);
    this.beat = setInterval(() => this.heartbeat(interval), interval);
    this.become("connected", `connected to ${this.at}${frame.resumed === "exact" ? ", resumed exactly" : ""}`);
    this.askNewest();
    this.heldUntil = 0;
    this.flush();
  }

  heartbeat(interval) {
    if (Date.now() - this.heardAt > interval * 2) this.again(`${this.at} is silent`);
    else this.put({ type: "heartbeat", timestamp: Date.now() });
  }

  put(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  // The id names the purpose, so that the answer finds its way without a table.
  ask(type, payload, purpose) {
    this.requests += 1;
    this.put({ type, id: `${purpose}-${this.requests}`, payload: { conversationId: this.mesh.group, ...payload } });
  }

  askNewest() {
    if (this.live && this.timeline.complete === null) this.ask("history.request", { limit: FIRST_PAGE }, "newest");
  }

  write(text) {
    if (this.outbox.entries.length >= OUTBOX_LIMIT) {
      this.say(`${OUTBOX_LIMIT} messages wait already; not taken`);
      return false;
    }
    const entry = { messageId: newId(), text, state: "sending" };
    this.outbox.push(entry);
    if (this.live && Date.now() >= this.heldUntil) this.offer(entry);
    this.say(this.live ? "sending" : "not connected: sent on return");
    return true;
  }

  offer({ messageId, text }) {
    const payload = { messageId, conversationId: this.mesh.group, content: { type: "text", text } };
    this.put({ type: "message.send", id: messageId, payload });
  }

  // Everything without a number goes again, in order, before anything new.
  flush() {
    if (this.live) this.outbox.unanswered().forEach((entry) => this.offer(entry));
  }

  hold(seconds) {
    this.heldUntil = Date.now() + seconds * 1000;
    clearTimeout(this.holdTimer);
    this.holdTimer = setTimeout(() => this.flush(), seconds * 1000 + 10);
  }

  learn(rows) {
    for (const row of rows) {
      const mine = this.outbox.take(row.messageId);
      this.timeline.add(mine ? { ...row, mine: true } : row);
    }
    this.watchHoles();
    this.onChange();
  }

  // Frames on their way may still close a hole; only one that stays is asked for.
  watchHoles() {
    if (this.holeTimer || !this.timeline.hasHole()) return;
    this.holeTimer = setTimeout(() => {
      this.holeTimer = null;
      if (!this.timeline.hasHole()) return;
      this.ask("history.request", { after: this.timeline.complete, limit: PAGE_LIMIT }, "fill");
      this.watchHoles();
    }, HOLE_PATIENCE_MS);
  }

  pull() {
    const conversations = [this.timeline.cursor(this.mesh.group)];
    this.put({ type: "sync.request", id: newId(), payload: { conversations, limit: PAGE_LIMIT } });
  }

  earlier() {
    const first = this.timeline.sequences()[0];
    if (first > 1) this.ask("history.request", { before: first, limit: FIRST_PAGE }, "earlier");
  }
}

function learnPage(session, page, id) {
  const { timeline } = session;
  const purpose = String(id).split("-")[0];
  const before = timeline.complete;
  if (page.floorSequence > (timeline.complete ?? 0) + 1 && timeline.complete !== null) timeline.begin(page.floorSequence);
  (page.withheld ?? []).forEach((range) => timeline.withhold(range));
  if (purpose === "newest" && timeline.complete === null) timeline.begin(page.messages[0]?.sequenceNumber ?? 1);
  if (purpose !== "fill") session.moreBefore = page.hasMore === true;
  session.learn(page.messages);
  if (purpose === "fill" && page.hasMore && timeline.complete > before) {
    session.ask("history.request", { after: timeline.complete, limit: PAGE_LIMIT }, "fill");
  }
}

// By frame type: (session, payload, the whole frame).
const HANDLERS = {
  "connected": (session, _payload, frame) => session.begin(frame),

  "message.ack": (session, ack) => {
    if (ack.conversationId && ack.conversationId !== session.mesh.group) return;
    if (ack.home) session.mesh.homeIs(ack.home);
    const entry = session.outbox.take(ack.messageId);
    const row = { ...ack, senderId: session.user, mine: true, ack: ack.durability ?? null };
    if (entry) row.content = { type: "text", text: entry.text };
    session.timeline.add(row);
    session.watchHoles();
    session.say(`acked as #${ack.sequenceNumber}: ${copiesInWords(ack.durability)}`);
  },

  "message.queued": (session, queued) => {
    if (queued.home) session.mesh.homeIs(queued.home);
    const words = QUEUED_IN_WORDS[queued.reason];
    const why = words ? words(queued.home) : queued.reason;
    session.outbox.mark(queued.messageId, "queued", why);
    session.say(`queued: ${why}`);
  },

  "message.refused": (session, refused) => {
    session.outbox.mark(refused.messageId, "refused", refused.error);
    session.say(`refused: ${refused.error} ${refused.message ?? ""}`);
  },

  "error": (session, error, frame) => {
    const entry = session.outbox.find(frame.id);
    if (entry && PASSING_ERRORS.includes(error.error)) session.hold(error.retryAfter ?? 2);
    else if (entry) session.outbox.mark(frame.id, "refused", error.error);
    // A region may not know the group yet when its first member has only just made it.
    if (String(frame.id).startsWith("newest-")) setTimeout(() => session.askNewest(), HOLE_PATIENCE_MS);
    session.say(`${error.error}: ${error.message ?? ""}`);
  },

  "message.new": (session, message) => {
    if (message.conversationId !== session.mesh.group) return;
    session.learn([message]);
    if (message.senderId !== session.user) session.say(`#${message.sequenceNumber} from ${message.senderId}`);
  },

  "history.response": (session, page, frame) => learnPage(session, page, frame.id),

  "sync.response": (session, answer) => {
    const mine = (answer.conversations ?? []).find((c) => c.conversationId === session.mesh.group);
    if (!mine) return;
    const before = session.timeline.complete;
    session.learn(mine.messages);
    if (mine.hasMore && session.timeline.complete > before) session.pull();
  },

  "sync.required": (session, { conversationId }) => {
    if (conversationId === session.mesh.group && session.timeline.complete !== null) session.pull();
  },

  "sync.gap": (session, { conversationId, fromSequence, toSequence }) => {
    if (conversationId !== session.mesh.group) return;
    session.say(`#${fromSequence}–#${toSequence} were missed; fetching them`);
    session.ask("history.request", { after: fromSequence - 1, limit: PAGE_LIMIT }, "fill");
  },

  "sync.complete": (session, { conversations, resumed }) => {
    const mine = (conversations ?? []).find((c) => c.conversationId === session.mesh.group);
    if (mine) session.say(`connected to ${session.at}, ${resumed === "exact" ? "resumed exactly" : "synced"} up to #${mine.upToSequence}`);
  },

  "conversation.rewound": (session, { conversationId, epoch, afterSequence }) => {
    if (conversationId !== session.mesh.group) return;
    session.timeline.rewind(epoch, afterSequence);
    session.say(`the home changed hands; positions above #${afterSequence} are read again`);
    if (session.timeline.complete !== null) session.pull();
  },

  "conversation.updated": (session, row) => {
    if (row.conversationId === session.mesh.group && row.home) session.mesh.homeIs(row.home);
  },

  "region.status": (session, { region, reachable }) => {
    if (reachable) session.unreached.delete(region);
    else session.unreached.add(region);
    session.say(`${region} is ${reachable ? "in reach again" : "out of reach"}, says ${session.at}`);
  },

  "server.draining": (session, payload, frame) => {
    const { reconnectAfterMs = 0, resumeToken, endpoints } = { ...payload, ...frame };
    if (resumeToken) session.resumeToken = resumeToken;
    if (endpoints) session.endpoints = endpoints;
    session.say(`${session.at} is draining`);
    // The third attempt is the first at another region.
    session.drainTimer = setTimeout(() => {
      if (!session.live) return;
      session.attempt = 2;
      session.reconnect(0, `${session.at} is draining, moving on`);
    }, reconnectAfterMs);
  },
};
