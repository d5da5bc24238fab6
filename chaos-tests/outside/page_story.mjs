// Opens the dev page in headless Chromium and uses it as a person would: writes in all panes, cuts a link by a click,
// sees a message wait, heals by a click, sees it numbered, and the same order everywhere. Leaves a picture.
//
// Usage: page_story.mjs [PICTURE.png], the ready line of `hearth dev --json` on standard input; exits as README.md says.

import { readMesh, withPage } from "./browser.mjs";

const USERS = ["ann", "bob", "cem"];
const WITHIN_MS = 15_000;
const by = (id) => `[data-testid="${id}"]`;

class Failed extends Error {}

// What every pane shows, by number: [{sequence, mid, text}].
function numbered(page) {
  return page.evaluate((users) => Object.fromEntries(users.map((user) => {
    const rows = document.querySelectorAll(`[data-testid="messages-${user}"] li[data-sequence]`);
    return [user, [...rows].map((li) => ({ sequence: Number(li.dataset.sequence), mid: li.dataset.mid, text: li.querySelector(".body").textContent }))];
  })), USERS);
}

async function write(page, user, text) {
  await page.fill(by(`input-${user}`), text);
  await page.press(by(`input-${user}`), "Enter");
}

const rowOf = (user, text, state) => `${by(`messages-${user}`)} li${state ? `[data-state="${state}"]` : ""}:has-text("${text}")`;

// Waits for the element, or fails in words with what the panes say.
async function sees(page, selector, what) {
  try {
    await page.waitForSelector(selector, { timeout: WITHIN_MS });
  } catch {
    const logs = await Promise.all(USERS.map((user) => page.textContent(by(`log-${user}`)).catch(() => "no pane")));
    throw new Failed(`${what} within ${WITHIN_MS} ms; the panes say: ${USERS.map((user, i) => `${user}: ${logs[i]}`).join("; ")}`);
  }
}

async function seenByAll(page, text) {
  for (const user of USERS) await sees(page, rowOf(user, text).replace(" li", " li[data-sequence]"), `"${text}" with a number in ${user}'s pane`);
}

function sameEverywhere(panes) {
  const [first, ...others] = USERS.map((user) => JSON.stringify(panes[user].map(({ sequence, mid, text }) => [sequence, mid, text])));
  if (others.some((other) => other !== first)) throw new Failed(`the same rows in all panes, got ${JSON.stringify(panes)}`);
  const numbers = panes[USERS[0]].map(({ sequence }) => sequence);
  if (numbers.some((n, i) => i > 0 && n !== numbers[i - 1] + 1)) throw new Failed(`numbers without a hole, got ${numbers}`);
}

async function story(page, mesh, picture) {
  const [home, far] = mesh.regions.map(({ id }) => id);
  const link = by(`link-${home}-${far}`);
  const run = Math.random().toString(36).slice(2, 7);
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.text().includes("Content Security Policy") && problems.push(message.text()));
  await page.goto(`${mesh.regions[0].http}/`);
  for (const user of USERS) await sees(page, `${by(`connection-${user}`)}[data-state="connected"]`, `${user} connected`);

  for (const user of USERS) await write(page, user, `${run} hello from ${user}`);
  for (const user of USERS) await seenByAll(page, `${run} hello from ${user}`);
  for (const user of USERS) await sees(page, rowOf(user, `${run} hello from ${user}`, "acked"), `${user}'s message acked`);

  await sees(page, `${link}[data-state="up"]`, "the link up");
  await page.click(link);
  await sees(page, `${link}[data-state="cut"]`, "the link cut");
  await write(page, "bob", `${run} from behind the cut`);
  await sees(page, rowOf("bob", `${run} from behind the cut`, "queued"), "bob's message queued");
  await write(page, "ann", `${run} meanwhile`);
  await sees(page, rowOf("ann", `${run} meanwhile`, "acked"), "ann's message acked behind the cut");
  if (picture) await page.screenshot({ path: picture.replace(/(\.png)?$/, "-cut.png") });
  await page.click(link);
  await sees(page, `${link}[data-state="up"]`, "the link healed");
  await sees(page, rowOf("bob", `${run} from behind the cut`, "acked"), "bob's message acked after the heal");
  for (const text of ["meanwhile", "from behind the cut"]) await seenByAll(page, `${run} ${text}`);
  const panes = await numbered(page);
  sameEverywhere(panes);
  if (problems.length > 0) throw new Failed(`no error in the page, got ${problems.join("; ")}`);
  if (picture) await page.screenshot({ path: picture });
  return panes[USERS[0]].length;
}

async function main() {
  const picture = process.argv[2];
  const mesh = await readMesh(USERS.length);
  return withPage({ viewport: { width: 1280, height: 800 } }, async (page) => {
    const began = Date.now();
    try {
      const messages = await story(page, mesh, picture);
      console.log(`ok dev page, Chromium: ${messages} messages, one order in ${USERS.length} panes, in ${((Date.now() - began) / 1000).toFixed(1)} s`);
      return 0;
    } catch (error) {
      if (picture) await page.screenshot({ path: picture }).catch(() => {});
      console.log(`FAILED dev page\n  expected: ${error.message}`);
      return 1;
    }
  });
}

main().then((code) => process.exit(code), (error) => {
  console.log(`could not run: ${error.message}`);
  process.exit(2);
});
