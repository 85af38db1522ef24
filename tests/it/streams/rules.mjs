// The rules of keybeat.js that need no daemon: silence, tokens, arguments, addresses, listeners. Prints each rule that holds.
import { strict as assert } from 'node:assert';

// As in React Native, which has none of these; and a page's signals.
const signals = {};
Object.assign(globalThis, { EventTarget: undefined, CustomEvent: undefined, Event: undefined });
globalThis.addEventListener = (type, call) => { signals[type] = call; };
globalThis.removeEventListener = (type) => { delete signals[type]; };
globalThis.document = { visibilityState: 'visible', addEventListener: globalThis.addEventListener, removeEventListener: globalThis.removeEventListener };

const { Daemon, FakeSocket, Keybeat, pass, settle } = await import('./fake.mjs');

let last;

/** A client that is live, its daemon, and the details of its events. The client before it is closed. */
async function live(options = {}) {
  last?.close();
  const daemon = new Daemon();
  const client = new Keybeat({ url: 'http://daemon.test', WebSocket: FakeSocket, ...options });
  last = client;
  const events = { state: [], change: [], refused: [], redis: [] };
  for (const type of Object.keys(events)) client.addEventListener(type, ({ detail }) => events[type].push(detail));
  await settle();
  return { daemon, client, events, say: (message) => { daemon.queue.push(message); daemon.deliver(); } };
}

const pings = (daemon) => daemon.received.filter(({ type }) => type === 'ping').length;

const rules = {
  async 'after 45 s of silence it pings, and a pong keeps the connection'() {
    const { daemon, client } = await live();
    await pass(44_000);
    assert.equal(pings(daemon), 0);
    await pass(2_000);
    assert.equal(pings(daemon), 1);
    daemon.deliver();
    await pass(44_000);
    assert.deepEqual([pings(daemon), client.state, daemon.sockets], [1, 'live', 1]);
  },

  async 'a dead connection is replaced within 75 s'() {
    const { daemon, client, events } = await live();
    daemon.deaf = true;
    await pass(61_000);
    assert.ok(events.state.some(({ state, reason }) => state === 'waiting' && reason === 'the daemon does not answer'));
    assert.deepEqual([client.state, daemon.sockets], ['live', 2]);
  },

  async 'it pings at once when the page wakes up or the network is back'() {
    for (const type of ['visibilitychange', 'pageshow', 'online', 'focus']) {
      const { daemon, client, events } = await live();
      signals[type]();
      signals[type]();
      assert.equal(pings(daemon), 1, type);
      daemon.deliver();
      await pass(6_000);
      assert.equal(client.state, 'live', type);
      daemon.deaf = true;
      signals[type]();
      await pass(5_001);
      assert.equal(events.state.at(-1).reason, 'the daemon does not answer', type);
      client.close();
      assert.equal(signals[type], undefined, 'it removes its listeners');
    }
  },

  async 'an older daemon that refuses a ping is alive, and nobody hears of it'() {
    const { daemon, client, events, say } = await live();
    await pass(46_000);
    const { id } = daemon.received.at(-1);
    daemon.queue = [];
    say({ type: 'error', id, code: 'invalid_request', message: '' });
    assert.deepEqual([client.state, events.refused], ['live', []]);
  },

  async 'a token function that returns its old token is called again, but rarely'() {
    let calls = 0;
    const { daemon, say } = await live({ token: () => (++calls > 6 ? 'new' : 'old') });
    assert.equal(calls, 1);
    say({ type: 'token', state: 'expiring', expires_ms: Date.now() + 6_000 });
    await settle();
    await pass(3_000);
    assert.ok(calls >= 2 && calls <= 4, `${calls} calls in 3 s`);
    await pass(10_000);
    const shown = daemon.received.filter(({ type }) => type === 'auth');
    assert.deepEqual(shown.map(({ token }) => token), ['new']);
    say({ type: 'token', state: 'renewed', id: shown[0].id, expires_ms: Date.now() + 600_000 });
    const before = calls;
    await pass(30_000);
    assert.equal(calls, before, 'no call after the renewal');
  },

  async 'a token function that never ends is given up after 15 s and called again'() {
    let calls = 0;
    const { client, events } = await live({ token: () => (++calls > 1 ? 'token' : new Promise(() => {})) });
    await pass(14_000);
    assert.deepEqual([client.state, calls], ['connecting', 1]);
    await pass(10_000);
    assert.deepEqual([client.state, calls], ['live', 2]);
    assert.ok(events.state.some(({ reason }) => reason?.includes('the token function took more than 15 s')), JSON.stringify(events.state));
  },

  async 'a token function is called again after 401, a fixed token ends it'() {
    globalThis.fetch = async () => ({ status: 401, json: async () => ({ error: { code: 'invalid_token', message: 'expired' } }) });
    for (const [token, state] of [[() => 'token', 'live'], ['token', 'stopped']]) {
      last?.close();
      const daemon = new Daemon();
      let refusals = 1;
      class Refused extends FakeSocket {
        constructor(...args) {
          super(...args);
          if (refusals-- > 0) {
            daemon.forget();
            queueMicrotask(() => this.onclose({ code: 1006, reason: '' }));
          }
        }
      }
      const client = last = new Keybeat({ url: 'http://daemon.test', WebSocket: Refused, token });
      await settle();
      await pass(1_000);
      assert.equal(client.state, state);
    }
  },

  async 'arguments that cannot be names are a TypeError, and an invalid name is refused by itself'() {
    const { daemon, client, events } = await live();
    for (const wrong of ['alice', [undefined, 'bob'], ['bob', null], [42], undefined, 7]) {
      assert.throws(() => client.watch(wrong), TypeError);
    }
    assert.throws(() => client.unwatch('alice'), TypeError);
    assert.equal(daemon.received.length, 0);
    const invalid = ['', 'a#b', 'a\nb', 'é'.repeat(129)];
    client.watch([...invalid, 'bob', 'é'.repeat(128), 'bob']);
    await settle();
    assert.deepEqual(daemon.received[0].users, ['bob', 'é'.repeat(128)]);
    assert.deepEqual(events.refused.map(({ code, users }) => [code, users]), [['invalid_user', invalid]]);
  },

  async 'a user stays watched until every watch of that user has ended'() {
    const { daemon, client } = await live();
    const ends = [client.watch(['bob', 'carol']), client.watch(['bob', 'bob']), client.watch(new Set(['bob', 'dave']))];
    while (daemon.deliver());
    daemon.received = [];
    ends[0]();
    ends[0]();
    ends[2](['bob']);
    assert.deepEqual(daemon.received, [{ type: 'unwatch', users: ['carol'] }]);
    assert.equal(client.get('bob').state, 'offline');
    ends[1]();
    ends[2]();
    assert.deepEqual(daemon.received.slice(1).map(({ users }) => users), [['bob'], ['dave']]);
    assert.equal(client.users.size, 0);
  },

  async 'the end of a watch from before an unwatch or a refusal ends no later watch'() {
    const { daemon, client } = await live();
    const before = client.watch(['bob']);
    client.unwatch(['bob']);
    const after = client.watch(['bob']);
    daemon.refuses = true;
    const refused = client.watch(['carol']);
    while (daemon.deliver());
    const again = client.watch(['carol']);
    while (daemon.deliver());
    before();
    refused();
    assert.deepEqual([...client.users.keys()], ['bob', 'carol']);
    after();
    again();
    assert.equal(client.users.size, 0);
  },

  async 'ready resolves once every watch is answered, and rejects when the client has stopped'() {
    const { daemon, client } = await live();
    await client.ready();
    client.watch(['bob']);
    let calls = 0;
    client.ready().then(() => calls++);
    await settle();
    assert.equal(calls, 0);
    daemon.lose();
    client.reconnect();
    await settle();
    assert.equal(calls, 0);
    daemon.deliver();
    await settle();
    assert.equal(calls, 1);
    client.watch(['carol']);
    const rejected = [client.ready()];
    client.close();
    rejected.push(client.ready());
    for (const promise of rejected) await assert.rejects(promise, { message: 'closed' });
  },

  async 'users whom the daemon refuses in a snapshot are not watched'() {
    const { daemon, client, events, say } = await live();
    client.watch(['bob', 'carol']);
    const { id } = daemon.received[0];
    daemon.queue = [];
    const refused = [{ user: 'carol', code: 'forbidden', message: 'no' }];
    say({ type: 'snapshot', id, users: [daemon.object('bob')], more: false, refused });
    assert.deepEqual(events.refused, [{ code: 'forbidden', message: 'no', users: ['carol'] }]);
    daemon.received = [];
    client.reconnect();
    await settle();
    assert.deepEqual(daemon.received[0].users, ['bob']);
  },

  async 'a daemon that is not ready is asked again later'() {
    const { daemon, client, events, say } = await live();
    client.watch(['bob']);
    const { id } = daemon.received[0];
    daemon.queue = [];
    say({ type: 'error', id, code: 'not_ready', message: 'wait' });
    assert.equal(events.state.at(-1).state, 'waiting');
    await pass(16_000);
    daemon.deliver();
    assert.deepEqual([client.get('bob')?.state, events.refused], ['offline', []]);
  },

  async 'it keeps its connection while the daemon is not ready'() {
    const { daemon, client } = await live();
    daemon.ready = false;
    client.watch(['bob']);
    client.reconnect();
    await settle();
    for (let second = 0; second < 300; second++) {
      await pass(1_000);
      while (daemon.deliver());
    }
    assert.deepEqual([client.state, daemon.sockets], ['connecting', 2]);
    daemon.becomeReady();
    daemon.deliver();
    assert.deepEqual([client.state, client.get('bob').state], ['live', 'offline']);
  },

  async 'Redis is up again after an outage of both Redis and the connection'() {
    const { daemon, client, events, say } = await live();
    say({ type: 'status', redis: 'down', since_ms: 1 });
    client.watch(['bob']);
    for (const redis of ['down', 'up']) {
      daemon.lose();
      client.reconnect();
      await settle();
      for (const message of [{ type: 'hello', epoch: 'e' }, { type: 'status', redis, since_ms: 2 }]) say2(daemon, message);
      daemon.deliver();
    }
    assert.deepEqual(events.redis.map(({ redis }) => redis), ['down', 'up']);
    assert.equal(client.redis, 'up');
  },

  async 'an answer to a watch of everybody that has ended is ignored'() {
    const { daemon, client, events } = await live();
    daemon.online.add('erin');
    client.watchAll();
    const { id } = daemon.received[0];
    client.unwatchAll();
    daemon.queue = [{ type: 'snapshot', id, users: [daemon.object('erin')], more: false }];
    daemon.deliver();
    assert.deepEqual([client.users.size, events.change], [0, []]);
  },

  async 'the path below which a proxy serves the daemon is part of its address'() {
    for (const [url, wanted] of [
      ['https://app.example/presence/', 'wss://app.example/presence/v1/ws'],
      ['https://app.example/presence', 'wss://app.example/presence/v1/ws'],
      [new URL('http://app.example:7400'), 'ws://app.example:7400/v1/ws'],
    ]) {
      const { daemon } = await live({ url });
      assert.equal(daemon.socket.url, wanted);
    }
    const { daemon } = await live({ user: 'al ice&é', session: 'phone' });
    assert.equal(daemon.socket.url, 'ws://daemon.test/v1/ws?user=al%20ice%26%C3%A9&session=phone');
  },

  async 'listeners are called until they are removed, and a fault of theirs is their own'() {
    const { client, say } = await live();
    const calls = [], faults = [];
    process.on('uncaughtException', (why) => faults.push(why.message));
    const always = ({ type, detail, target }) => calls.push([type, detail.redis, target === client]);
    const abort = new AbortController();
    client.addEventListener('redis', () => { throw new Error('mine'); }, { once: true });
    client.addEventListener('redis', always);
    client.addEventListener('redis', always);
    client.addEventListener('redis', { handleEvent: () => calls.push('object') }, { once: true });
    client.addEventListener('redis', () => calls.push('signal'), { signal: abort.signal });
    say({ type: 'status', redis: 'down', since_ms: 1 });
    abort.abort();
    client.removeEventListener('redis', null);
    say({ type: 'status', redis: 'up', since_ms: 2 });
    client.removeEventListener('redis', always);
    say({ type: 'status', redis: 'down', since_ms: 3 });
    await settle();
    assert.deepEqual(calls, [['redis', 'down', true], 'object', 'signal', ['redis', 'up', true]]);
    assert.deepEqual(faults, ['mine']);
  },
};

function say2(daemon, message) {
  daemon.queue.unshift(message);
  daemon.deliver();
}

let failed = 0;
for (const [rule, holds] of Object.entries(rules)) {
  try {
    await holds();
    console.log(`holds: ${rule}`);
  } catch (why) {
    failed++;
    console.log(`FAILS: ${rule}\n${why.stack}`);
  }
}
process.exit(failed ? 1 : 0);
