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
client.addEventListener('refused', ({ detail }) => report(['refused', detail.code, ...detail.users].join(' ')));
client.addEventListener('redis', ({ detail }) => report(`redis ${detail.redis}`));
client.addEventListener('state', ({ detail: { state, reason, retry_ms } }) => {
  if (state !== 'connecting') report(state, { reason, retry_ms });
});

const calls = {
  watch: ({ users }) => client.watch(users),
  unwatch: ({ users }) => client.unwatch(users),
  watch_all: () => client.watchAll(),
  unwatch_all: () => client.unwatchAll(),
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
