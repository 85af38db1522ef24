// Prints the state of users and each change of it, with the package keybeat (clients/js):
//
//     node watch.mjs alice bob
//
// KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it. The client reconnects
// after a lost connection and reports what changed in between.

import { Keybeat } from 'keybeat';

const users = process.argv.slice(2);
if (!users.length) {
  console.error('name the users to watch');
  process.exit(2);
}
const keybeat = new Keybeat({
  url: process.env.KEYBEAT_URL ?? 'http://127.0.0.1:7400',
  token: process.env.KEYBEAT_TOKEN,
});
keybeat.addEventListener('change', ({ detail }) => console.log(`${detail.user} is ${detail.state}`));
keybeat.addEventListener('redis', ({ detail }) => console.log(`Redis is ${detail.redis}`));
keybeat.addEventListener('refused', ({ detail }) => console.error('the daemon refused:', detail.message));
keybeat.addEventListener('state', ({ detail: { state, reason, retry_ms } }) => {
  if (state === 'waiting') console.error(`${reason}; trying again in ${(retry_ms / 1000).toFixed(1)} s`);
  if (state === 'stopped') console.error(reason);
});
keybeat.watch(users);
