// Keeps a user online while its socket is open, then the user goes offline at once; with the package keybeat (clients/js):
//
//     node online.mjs alice
//     node online.mjs alice phone          // with a session, one device of alice
//
// KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it. The client reconnects
// after a lost connection; in between, the user stays online until the TTL of the key ends.

import { Keybeat } from 'keybeat';

const [user = 'alice', session] = process.argv.slice(2);
const keybeat = new Keybeat({
  url: process.env.KEYBEAT_URL ?? 'http://127.0.0.1:7400',
  token: process.env.KEYBEAT_TOKEN,
  user,
  session,
});
keybeat.addEventListener('state', ({ detail: { state, reason, retry_ms } }) => {
  if (state === 'live') console.log(`${user} is kept online; stop with Ctrl-C`);
  if (state === 'waiting') console.error(`${reason}; trying again in ${(retry_ms / 1000).toFixed(1)} s`);
  if (state === 'stopped' && reason !== 'closed') console.error(reason);
});
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => keybeat.close());
