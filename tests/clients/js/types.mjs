// Compiles the examples of the READMEs, and calls that must be errors, with tsc --strict against the installed package.
// node types.mjs FOLDER: the folder with node_modules
import { strict as assert } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const folder = join(process.argv[2], 'types');
const root = new URL('../../../', import.meta.url);

/** The code blocks of a document that import the package. */
const examples = (path) => [...readFileSync(new URL(path, root), 'utf8').matchAll(/^```(?:js|ts|tsx)\n(.*?)^```/gms)]
  .map(([, code]) => code.replaceAll(/"http:\/\/[^"]*\/keybeat\.js"/g, '"keybeat"'))
  .filter((code) => /from "keybeat/.test(code));

const WRONG = `
import { Keybeat } from 'keybeat';
const keybeat = new Keybeat({ url: 'http://127.0.0.1:7400', beat: 'message' });
// @ts-expect-error: a text is not a list of names
keybeat.watch('alice');
// @ts-expect-error: there is no such event
keybeat.addEventListener('chance', () => {});
// @ts-expect-error: there is no such state
keybeat.addEventListener('change', ({ detail }) => detail.state === 'away');
// @ts-expect-error: a user who is not known
keybeat.get('alice').state;
// @ts-expect-error: there is no such value
new Keybeat({ beat: true });
keybeat.addEventListener('change', ({ detail }) => {
  if (detail.state === 'online') (detail.since_ms ?? 0).toFixed();
  else (detail.last_seen_ms ?? 0).toFixed();
}, { once: true });
keybeat.addEventListener('refused', ({ detail: { code, users } }) => users.map((user) => code + user));
keybeat.addEventListener('state', { handleEvent: ({ target }) => target.close() });
// @ts-expect-error: a text is not a list of names
keybeat.watchGroups('team-a');
// @ts-expect-error: the detail of a group has no such field
keybeat.addEventListener('group', ({ detail }) => detail.left);
keybeat.addEventListener('group', ({ detail: { group, members, online, users } }) => [group, members - online, users.map(({ user }) => user)]);
keybeat.addEventListener('members', ({ detail: { joined, left } }) => [joined.map(({ state, status }) => [state, status]), left.join()]);
keybeat.addEventListener('occupancy', ({ detail }) => detail.online / detail.members);
keybeat.addEventListener('status', ({ detail: { user, status } }) => keybeat.setStatus({ user, status }));
keybeat.watchGroups(['team-a'], { count: true });
const unwatch: (users?: string[]) => void = keybeat.watch(new Set(['alice']));
unwatch(['alice']);
`;

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const found = ['README.md', 'clients/js/README.md', 'docs/REFERENCE.md'].flatMap((path) => {
  const some = examples(path);
  if (!some.length) throw new Error(`there is no example in ${path}`);
  return some;
});
found.forEach((code, i) => writeFileSync(join(folder, `example${i}.tsx`), code));
writeFileSync(join(folder, 'wrong.ts'), WRONG);
const options = { strict: true, noEmit: true, target: 'es2022', module: 'nodenext', moduleResolution: 'nodenext', jsx: 'react-jsx', lib: ['es2023', 'dom'], types: [], exactOptionalPropertyTypes: true };
writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['*'] }));
writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
const tsc = join(process.argv[2], 'node_modules/typescript/bin/tsc');
for (const mode of [[], ['--module', 'esnext', '--moduleResolution', 'bundler']]) {
  const ran = spawnSync(process.execPath, [tsc, '-p', folder, ...mode], { encoding: 'utf8' });
  if (ran.status) {
    console.error(`tsc --strict ${mode.join(' ')}\n${ran.stdout}${ran.stderr}`);
    process.exit(1);
  }
}

// The types name each public member, and no other.
const require = createRequire(join(process.argv[2], 'package.json'));
const { Keybeat } = await import(pathToFileURL(require.resolve('keybeat')));
const fields = ['state', 'reason', 'redis', 'epoch'];
const members = [...Object.getOwnPropertyNames(Object.getPrototypeOf(Keybeat.prototype)), ...fields];
const types = readFileSync(new URL('clients/js/keybeat.d.ts', root), 'utf8').split('export class Keybeat {')[1];
const typed = [...types.matchAll(/^  (?:readonly )?(\w+)[<(:]/gm)].map(([, name]) => name);
assert.deepEqual(members.sort(), typed.sort());
console.log(`tsc --strict accepts ${found.length} examples, and refuses what is wrong`);
