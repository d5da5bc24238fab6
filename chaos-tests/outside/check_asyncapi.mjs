// Reads the AsyncAPI document that a mesh serves with AsyncAPI's own parser. The ready line of `hearth dev --json` is on
// standard input; exit 0 when it has nothing to say, 1 when it has.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const packages = process.env.HEARTH_OUTSIDE_NODE ?? path.dirname(new URL(import.meta.url).pathname);
const { Parser } = createRequire(path.join(packages, 'package.json'))('@asyncapi/parser');

const line = readFileSync(0, 'utf8').split('\n').find((text) => text.startsWith('{'));
if (!line) {
  console.error('no ready line on standard input');
  process.exit(2);
}
const url = `${JSON.parse(line).regions[0].http}/asyncapi.json`;
const answer = await fetch(url);
const { document, diagnostics } = await new Parser().parse(await answer.text());
for (const { code, message, path: place } of diagnostics) console.log(`${code}: ${message} at ${place.join('.')}`);
const messages = document?.messages().all().length ?? 0;
const good = answer.ok && messages > 0 && diagnostics.length === 0;
console.log(`${good ? 'ok' : 'FAILED'}   ${url}: ${messages} messages, ${diagnostics.length} remarks`);
process.exit(good ? 0 : 1);
