// The page of `hearth dev`: three clients of the contract in one window, and the links between their regions.
//
// Each pane is one person with a connection of its own (client.js). The page knows nothing of the inside of a region:
// it speaks what any client speaks, and the development endpoints.

import { Session, copiesInWords, fullJitter, rest, tokenFor } from "./client.js";

const USERS = ["ann", "bob", "cem"];
const GROUP_NAME = "The hearth";
const LINK_POLL_MS = 2000;

// ---------------------------------------------------------------- elements

function element(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// Children are elements or strings; a string becomes a text node, so no message is ever read as markup.
function dress(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children);
  return node;
}

function complain(text) {
  const place = document.getElementById("problem");
  place.textContent = text;
  place.hidden = text === "";
}

// ---------------------------------------------------------------- the group

async function findOrCreateGroup() {
  const token = await tokenFor(USERS[0]);
  let cursor = "";
  for (;;) {
    const page = await rest("GET", `/api/v1/conversations?limit=100${cursor}`, undefined, token);
    const found = page.conversations.find((row) => row.name === GROUP_NAME);
    if (found) return found;
    if (!page.hasMore) break;
    cursor = `&cursor=${encodeURIComponent(page.cursor)}`;
  }
  return rest("POST", "/api/v1/groups", { name: GROUP_NAME, participantIds: USERS.slice(1) }, token);
}

// ---------------------------------------------------------------- one person's pane

function describe(row) {
  if (row.deleted || row.expired) return { note: row.deleted ? "deleted" : "expired" };
  if (row.kind === undefined || row.kind === "message") {
    return row.content ? { text: row.content.text ?? `(${row.content.type})` } : { note: row.blocked ? "blocked" : "a message" };
  }
  if (row.kind === "edit") return { note: `edited a message${row.content?.text ? `: ${row.content.text}` : ""}` };
  const change = row.change ? `${row.change.action} ${(row.change.userIds ?? []).join(", ")}` : "";
  return { note: `${row.kind} ${change}`.trim() };
}

// state: sending, queued, acked, refused, or received for what others wrote.
function messageRow({ number, sender, what, state, stateText, tooltip, messageId, mine }) {
  const body = element("span", { class: "body" });
  if (sender) body.append(element("span", { class: "sender" }, sender), " ");
  body.append(what.text ?? what.note);
  return element("li", {
    "class": `${mine ? "mine" : ""} ${what.note ? "note" : ""}`.trim(),
    "data-sequence": number, "data-state": state, "data-mid": messageId,
  },
    element("span", { class: "number" }, number === undefined ? "…" : `#${number}`), body,
    element("span", { class: "state", title: tooltip, "aria-label": tooltip && `${stateText}: ${tooltip}` }, stateText));
}

function numberedRow(row, user) {
  const mine = row.senderId === user;
  const state = mine ? "acked" : "received";
  const tooltip = mine ? `${copiesInWords(row.ack)}${row.epoch === undefined ? "" : `, epoch ${row.epoch}`}` : undefined;
  const stateText = mine ? "acked" : "";
  return messageRow({ number: row.sequenceNumber, sender: row.senderId, what: describe(row), state, stateText, tooltip, messageId: row.messageId, mine });
}

function holeRow(from, to) {
  const which = from === to ? `#${from} is` : `#${from}–#${to} are`;
  return element("li", { class: "hole" }, element("span", { class: "number" }, "…"), element("span", { class: "body" }, `${which} on the way`));
}

class Pane {
  constructor(user, region, mesh, onChange) {
    this.session = new Session(user, region, mesh, () => this.changed());
    this.onChange = onChange;
    this.connection = element("span", { class: "connection", "data-testid": `connection-${user}` });
    this.list = element("ol", { "data-testid": `messages-${user}`, "aria-label": `Messages seen by ${user}`, tabindex: 0 });
    // A list that was at its end stays there when the window changes its size.
    this.atEnd = true;
    this.list.onscroll = () => {
      // A scroll by the change of size itself says nothing of the reader's place.
      if (this.list.clientHeight === this.height) this.atEnd = this.isAtEnd();
    };
    new ResizeObserver(() => {
      this.height = this.list.clientHeight;
      if (this.atEnd) this.toEnd();
    }).observe(this.list);
    this.log = element("p", { class: "log", "data-testid": `log-${user}`, role: "status" });
    this.earlier = element("button", { class: "earlier", type: "button" }, "Earlier messages");
    this.earlier.onclick = () => this.session.earlier();
    this.root = element("section", { class: "pane", "data-testid": `pane-${user}`, "aria-label": user },
      element("header", {}, element("h2", {}, user), this.connection, this.regionChoice(mesh, region)),
      this.earlier, this.list, this.form(user), this.log);
    this.render();
  }

  form(user) {
    const input = element("input", { "data-testid": `input-${user}`, "aria-label": `Message as ${user}`, placeholder: `Write as ${user}`, maxlength: 4000, autocomplete: "off" });
    const form = element("form", {}, input, element("button", { type: "submit", "data-testid": `send-${user}` }, "Send"));
    form.onsubmit = (event) => {
      event.preventDefault();
      if (input.value.trim() !== "" && this.session.write(input.value)) input.value = "";
      this.toEnd();
    };
    return form;
  }

  regionChoice(mesh, region) {
    const options = mesh.regions.map(({ id }) => element("option", { value: id, selected: id === region.id ? "" : undefined }, `at ${id}`));
    const choice = element("select", { "data-testid": `region-${this.session.user}`, "aria-label": `Region of ${this.session.user}` }, ...options);
    choice.onchange = () => this.session.moveTo(mesh.regions.find(({ id }) => id === choice.value));
    return choice;
  }

  isAtEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
  }

  toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
    this.atEnd = true;
  }

  // Many frames in one turn of the loop cost one drawing.
  changed() {
    if (this.due) return;
    this.due = true;
    setTimeout(() => {
      this.due = false;
      this.render();
      this.onChange();
    }, 0);
  }

  render() {
    const { session, list } = this;
    const atEnd = this.isAtEnd();
    this.earlier.hidden = !session.moreBefore;
    list.replaceChildren(...this.numbered(), ...this.pending());
    if (atEnd) this.toEnd();
    const words = { connected: `connected to ${session.at}`, resuming: `resuming at ${session.at}`, closed: "closed" };
    this.connection.textContent = words[session.state];
    this.connection.dataset.state = session.state;
    this.connection.dataset.region = session.at;
    if (this.log.textContent !== session.said) this.log.textContent = session.said;
  }

  numbered() {
    const { timeline, user } = this.session;
    const rows = [];
    let last = null;
    for (const n of timeline.sequences()) {
      const row = timeline.rows.get(n);
      if (last !== null && n > last + 1) rows.push(holeRow(last + 1, n - 1));
      if (row.kind !== "withheld") rows.push(numberedRow(row, user));
      last = n;
    }
    return rows;
  }

  pending() {
    const { outbox, user } = this.session;
    return outbox.entries.map(({ messageId, text, state, why }) =>
      messageRow({ sender: user, what: { text }, state, stateText: state, tooltip: why, messageId, mine: true }));
  }
}

// ---------------------------------------------------------------- the links

function pairKey(one, other) {
  return [one, other].sort().join(" ");
}

class LinkMap {
  constructor(svg, regions) {
    this.svg = svg;
    this.silent = new Set();
    this.known = true;
    this.regions = regions;
    this.links = [];
    this.home = null;
    this.places = new Map(regions.map(({ id }, i) => [id, this.place(i, regions.length)]));
  }

  // On an ellipse, the first region at the upper left.
  place(i, count) {
    const angle = -Math.PI * 5 / 6 + i * 2 * Math.PI / count;
    return { x: 210 + 145 * Math.cos(angle), y: 96 + 64 * Math.sin(angle) };
  }

  async poll() {
    try {
      const { links } = await rest("GET", "/api/v1/dev/links");
      this.known = true;
      this.show(links);
      complain("");
    } catch (error) {
      this.known = false;
      this.show(this.links);
      complain(`The region that serves this page does not answer (${error.message}).`);
    }
    setTimeout(() => this.poll(), LINK_POLL_MS);
  }

  show(links) {
    const text = JSON.stringify([links, this.known, this.home, this.people, [...this.silent]]);
    if (text === this.shown) return;
    this.shown = text;
    this.links = links;
    this.draw();
  }

  moved(people, home, silent) {
    Object.assign(this, { people, home, silent });
    this.show(this.links);
  }

  // Both directions of a pair as one line.
  pairs() {
    const pairs = [];
    this.regions.forEach(({ id: from }, i) => this.regions.slice(i + 1).forEach(({ id: to }) => {
      const rows = this.links.filter((l) => (l.from === from && l.to === to) || (l.from === to && l.to === from));
      if (rows.length === 0) return;
      const cut = rows.filter((l) => l.state === "cut").length;
      const state = cut === 0 ? "up" : cut === rows.length ? "cut" : "one-way";
      const loss = Math.max(...rows.map((l) => l.lossPercent ?? 0));
      // Where no fault was set, a link is down because a region is; once nobody answers, nothing is known.
      const contact = !this.known ? "unknown" : this.silent.has(pairKey(from, to)) ? "none" : "some";
      pairs.push({ from, to, state, contact, delay: Math.max(...rows.map((l) => l.delayMs ?? 0)), loss });
    }));
    return pairs;
  }

  draw() {
    const focused = document.activeElement?.getAttribute("data-testid");
    this.svg.replaceChildren(...this.pairs().map((pair) => this.line(pair)), ...this.regions.map(({ id }) => this.dot(id)));
    if (focused?.startsWith("link-")) this.svg.querySelector(`[data-testid="${CSS.escape(focused)}"]`)?.focus();
  }

  line(pair) {
    const a = this.places.get(pair.from);
    const b = this.places.get(pair.to);
    const ends = { x1: a.x, y1: a.y, x2: b.x, y2: b.y };
    const [x, y] = [(a.x + b.x) / 2, (a.y + b.y) / 2];
    const label = labelOf(pair);
    const width = 18 + label.length * 7.5;
    const name = `${pair.from} to ${pair.to}: ${label}; ${pair.state === "up" ? "cut" : "heal"}`;
    const link = drawn("g", { "class": "link", "data-testid": `link-${pair.from}-${pair.to}`, "data-state": pair.state, "data-contact": pair.contact, "role": "button", "tabindex": 0, "aria-label": name },
      drawn("title", {}, name), drawn("line", { class: "wire", ...ends }), drawn("line", { class: "hit", ...ends }),
      drawn("rect", { class: "plate", x: x - width / 2, y: y - 12, width, height: 24, rx: 12 }), drawn("text", { x, y }, label));
    link.onclick = () => this.toggle(pair);
    link.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.toggle(pair);
    };
    return link;
  }

  dot(id) {
    const { x, y } = this.places.get(id);
    const below = y > 96 ? 1 : -1;
    const people = this.people?.[id] ?? "";
    return drawn("g", { "class": "region", "data-testid": `node-${id}`, "data-home": id === this.home },
      drawn("circle", { cx: x, cy: y, r: 11 }),
      drawn("text", { x, y: y + (below > 0 ? 28 : -32) }, id),
      drawn("text", { class: "people", x, y: y + (below > 0 ? 43 : -17) }, people));
  }

  async toggle({ from, to, state }) {
    try {
      const next = state === "up" ? "cut" : "up";
      const answer = await rest("POST", "/api/v1/dev/links", { from, to, state: next, both: true });
      this.show(answer.links);
    } catch (error) {
      complain(`The link was not changed: ${error.message}`);
    }
  }
}

function labelOf({ state, contact, delay, loss }) {
  if (contact === "unknown") return "?";
  if (state !== "up") return state;
  if (contact === "none") return "no contact";
  return `${delay} ms${loss > 0 ? `, ${loss} %` : ""}`;
}

// ---------------------------------------------------------------- the whole page

// Up to which number all panes agree, or where they do not.
function agreement(timelines) {
  const upTo = Math.min(...timelines.map((timeline) => timeline.complete ?? 0));
  for (let n = upTo; n > 0; n--) {
    const ids = timelines.map((timeline) => timeline.rows.get(n)?.messageId).filter((id) => id !== undefined);
    if (new Set(ids).size > 1) return { state: "differs", text: `The panes differ at #${n}.` };
    if (ids.length === 0) break;
  }
  return { state: "same", text: upTo > 0 ? `Same order in all panes up to #${upTo}.` : "" };
}

async function start() {
  const { regions } = await rest("GET", "/api/v1/dev/regions");
  const group = await findOrCreateGroup();
  const map = new LinkMap(document.getElementById("map"), regions);
  const panes = [];
  const mesh = { regions, group: group.conversationId, home: group.home ?? null };
  const changed = () => {
    const { state, text } = agreement(panes.map((pane) => pane.session.timeline));
    const place = document.getElementById("agreement");
    place.dataset.state = state;
    if (place.textContent !== text) place.textContent = text;
    const people = {};
    const silent = new Set();
    for (const { session } of panes.filter((pane) => pane.session.live)) {
      people[session.at] = [people[session.at], session.user].filter(Boolean).join(", ");
      for (const region of session.unreached) silent.add(pairKey(session.at, region));
    }
    map.moved(people, mesh.home, silent);
  };
  mesh.homeIs = (home) => { mesh.home = home; };
  USERS.forEach((user, i) => panes.push(new Pane(user, regions[i % regions.length], mesh, changed)));
  document.getElementById("panes").append(...panes.map((pane) => pane.root));
  panes.forEach((pane) => pane.session.connect());
  changed();
  map.poll();
}

// The page may be open before the mesh is; it keeps asking.
async function startWhenReady(attempt = 0) {
  try {
    await start();
    complain("");
  } catch (error) {
    complain(`Waiting for the mesh: ${error.message}`);
    setTimeout(() => startWhenReady(attempt + 1), fullJitter(Math.max(2, attempt)));
  }
}

startWhenReady();
