// Keeps a user online until it is stopped, then goes offline at once. Needs only Node 18 or newer:
//
//     node heartbeat.mjs alice
//     node heartbeat.mjs alice phone       // with a session, one device of alice
//
// KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it.

const TTL_MS = 30_000;
const EVERY_MS = TTL_MS / 3; // so that two may be lost

const daemon = process.env.KEYBEAT_URL ?? 'http://127.0.0.1:7400';
const [user = 'alice', session] = process.argv.slice(2);
const url = `${daemon}/v1/users/${encodeURIComponent(user)}`;

async function call(method, url, body) {
  const headers = { 'content-type': 'application/json' };
  if (process.env.KEYBEAT_TOKEN) headers.authorization = `Bearer ${process.env.KEYBEAT_TOKEN}`;
  const signal = AbortSignal.timeout(5_000);
  const answer = await fetch(url, { method, headers, signal, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(await answer.text());
}

async function heartbeat() {
  try {
    await call('PUT', `${url}/heartbeat`, { session, ttl_ms: TTL_MS });
  } catch (why) { // the next one may succeed
    console.error('a heartbeat failed:', why.cause?.message ?? why.message);
  }
}

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    clearInterval(beats);
    try {
      await call('DELETE', url + (session ? `?session=${encodeURIComponent(session)}` : ''));
    } catch (why) {
      console.error(`the goodbye failed, so ${user} goes offline when the TTL ends:`, why.cause?.message ?? why.message);
      process.exitCode = 1;
    }
  });
}
console.log(`${user} is kept online; stop with Ctrl-C`);
const beats = setInterval(heartbeat, EVERY_MS);
await heartbeat();
