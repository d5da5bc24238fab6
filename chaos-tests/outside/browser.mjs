// Debian's Chromium, started with an empty profile, and the ready line of the mesh.

import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

// The packages lie in a cache folder beside no source file, so they are looked up from there.
const packages = createRequire(join(process.env.HEARTH_OUTSIDE_NODE ?? process.cwd(), "package.json"));

// Without the background flags, Chromium asks for hosts that a closed network refuses, many at a time.
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

// Runs work(page) in a fresh browser and leaves nothing behind, whatever happens.
export async function withPage(options, work) {
  const { chromium } = packages("playwright-core");
  const profile = await mkdtemp(join(tmpdir(), "hearth-chromium-"));
  try {
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS, viewport: options.viewport ?? { width: 1280, height: 800 },
    });
    try {
      return await work(await context.newPage());
    } finally {
      await context.close();
    }
  } finally {
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

// The ready line from standard input; throws when there is none with that many regions.
export async function readMesh(regions) {
  let text = "";
  for await (const chunk of process.stdin) {
    text += chunk;
    const line = text.split("\n").find((candidate, i, all) => candidate.trimStart().startsWith("{") && i < all.length - 1);
    if (line) {
      text = line;
      break;
    }
  }
  const start = text.indexOf("{");
  const mesh = start < 0 ? {} : JSON.parse(text.slice(start).split("\n")[0]);
  if (!(mesh.regions?.length >= regions)) throw new Error(`standard input has no ready line with ${regions} regions or more`);
  return mesh;
}

const TOKEN = /[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]+)?/g;

export function withoutSecrets(value) {
  if (Array.isArray(value)) return value.map(withoutSecrets);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, ["token", "resumeToken"].includes(k) ? "…" : withoutSecrets(v)]));
  }
  return typeof value === "string" ? value.replace(TOKEN, "…") : value;
}
