// Drives the JavaScript client for the conformance suite. docs/PROTOCOL.md describes what a driver reads and prints.
// node driver.mjs PACKAGE OPTIONS: the file of the client; url, speed, and the client's own options as JSON
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [file, { speed = 1, token, tokens, ...options }] = [process.argv[2], JSON.parse(process.argv[3])];

// Node loads its fetch at the first call, which takes a while on a busy machine.
await fetch('http://127.0.0.1:1').catch(() => {});

// The client's time passes faster than the clock's.
const [later, now, start] = [globalThis.setTimeout, Date.now, Date.now()];
globalThis.setTimeout = (call, ms, ...args) => later(call, ms / speed, ...args);
Date.now = () => start + (now() - start) * speed;

const { Keybeat } = await import(pathToFileURL(file));
const print = (line) => console.log(JSON.stringify(line));
const report = (report, more) => print({ report, ...more });

let fresh = tokens;
const client = new Keybeat({ ...options, ...(token && { token }), ...(tokens && { token: async () => (fresh.length > 1 ? fresh.shift() : fresh[0]) }) });
client.addEventListener('change', ({ detail }) => report(`${detail.user} ${detail.state}`));
client.addEventListener('refused', ({ detail: { code, users, group } }) => report(['refused', code, ...users, ...(group === undefined ? [] : ['group', group])].join(' ')));
client.addEventListener('status', ({ detail }) => report(`status ${detail.user} ${JSON.stringify(detail.status)}`));
const counts = (kind, { group, members, online }, users = []) => report([kind, group, `${online}/${members}`, ...users].join(' '));
client.addEventListener('group', ({ detail }) => counts('group', detail, detail.users.map(({ user }) => user).sort()));
client.addEventListener('occupancy', ({ detail }) => counts('occupancy', detail));
client.addEventListener('members', ({ detail: { group, joined, left } }) => report(
  ['members', group, ...joined.map(({ user, state }) => `+${user}:${state}`).sort(), ...left.map((user) => `-${user}`).sort()].join(' '),
));
client.addEventListener('redis', ({ detail }) => report(`redis ${detail.redis}`));
client.addEventListener('state', ({ detail: { state, reason, retry_ms } }) => {
  if (state !== 'connecting') report(state, { reason, retry_ms });
});

const calls = {
  watch: ({ users }) => client.watch(users),
  unwatch: ({ users }) => client.unwatch(users),
  watch_all: () => client.watchAll(),
  unwatch_all: () => client.unwatchAll(),
  watch_group: ({ group, count }) => client.watchGroups([group], { count }),
  unwatch_group: ({ group }) => client.unwatchGroups([group]),
  set_status: ({ status }) => client.setStatus(status),
  heartbeat: ({ user }) => client.heartbeat(user),
  leave: () => client.leave(),
  close: () => client.close(),
  token: ({ token }) => { fresh = [token]; },
};
createInterface({ input: process.stdin }).on('line', (line) => {
  const { call, ...args } = JSON.parse(line);
  calls[call](args);
  print({ done: call });
}).on('close', () => process.exit());
