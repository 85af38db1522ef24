// keybeat.js against tests/clients/table.json, with random sequences of calls, answers and lost connections.
// node table.mjs [SEED [RUNS]]
import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { Daemon, FakeSocket, Keybeat, settle } from './fake.mjs';

const table = JSON.parse(readFileSync(new URL('../../clients/table.json', import.meta.url), 'utf8'));
const USERS = ['alice', 'bob', 'carol'];
const [seed, runs] = [Number(process.argv[2] ?? 1), Number(process.argv[3] ?? 300)];

/** Mulberry32: numbers below `below`, the same for a seed. */
let random = seed;
function draw(below) {
  random = (random + 0x6d2b79f5) | 0;
  let t = Math.imul(random ^ (random >>> 15), 1 | random);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % below;
}

class World {
  daemon = new Daemon();
  client = new Keybeat({ url: 'http://daemon.test', WebSocket: FakeSocket });
  states = new Map(USERS.map((user) => [user, { ...table.state }]));
  latest = new Map();
  asked = new Map();
  reported = [];
  /** What the table says that the client sends and reports in this step. */
  sends = [];
  reports = [];

  constructor() {
    this.client.addEventListener('change', ({ detail }) => this.reported.push(`${detail.user} ${detail.state}`));
    this.client.addEventListener('refused', ({ detail }) => { for (const user of detail.users) this.reported.push(`${user} refused`); });
  }

  get up() { return this.states.get('alice').connection === 'up'; }

  expect(user, event) {
    const state = this.states.get(user);
    const holds = ({ if: conditions = {} }) => Object.entries(conditions).every(([field, value]) => state[field] === value);
    const row = table.rows.find((row) => row.event === event && holds(row));
    assert(row, `no row for ${event}`);
    if (row.send) this.sends.push(`${user} ${row.send}`);
    // keybeat.js has one event for the first state and for changes.
    if (row.report) this.reports.push(`${user} ${row.report.replace('first ', '')}`);
    Object.assign(state, row.then);
  }

  expectAll(event) { for (const user of USERS) this.expect(user, event); }

  receive() {
    const message = this.daemon.queue[0];
    if (!message) return;
    for (const { user, state } of message.users ?? []) {
      this.expect(user, this.latest.get(user) === message.id ? `snapshot ${state}` : 'old snapshot');
    }
    for (const { user, state } of message.transitions ?? []) this.expect(user, `transition ${state}`);
    if (message.code === 'not_ready') this.expectAll('not ready');
    else for (const user of message.type === 'error' ? this.asked.get(message.id) : []) {
      this.expect(user, this.latest.get(user) === message.id ? 'refused' : 'old refused');
    }
    this.daemon.deliver();
  }

  async connect() {
    if (this.up) return;
    [this.latest, this.asked] = [new Map(), new Map()];
    this.expectAll('connected');
    this.client.reconnect();
    await settle();
  }

  async step() {
    const user = USERS[draw(USERS.length)];
    const kind = ['watch', 'watch', 'watch', 'unwatch', 'unwatch', 'flip', 'flip', 'flip', 'connect', 'connect', 'lose', 'refuse', 'fill'][draw(18)] ?? 'receive';
    if (kind === 'watch' || kind === 'unwatch') {
      this.expect(user, kind);
      this.client[kind]([user]);
    } else if (kind === 'flip') this.daemon.flip(user);
    else if (kind === 'connect') await this.connect();
    else if (kind === 'receive') this.receive();
    else if (kind === 'refuse') this.daemon.refuses = this.up;
    else if (kind === 'fill') this.daemon.full = this.up;
    else if (this.up) {
      this.expectAll('lost');
      this.daemon.lose();
    }
    await settle();
    this.compare(kind);
    return `${kind} ${user}`;
  }

  compare(kind) {
    const sent = [];
    for (const { type, users = [], id } of this.daemon.received.splice(0)) {
      if (type === 'watch') this.asked.set(id, users);
      for (const user of users) {
        sent.push(`${user} ${type}`);
        if (type === 'watch') this.latest.set(user, id);
        else this.latest.delete(user);
      }
    }
    assert.deepEqual(sent.sort(), this.sends.sort(), `${kind}: sent, as it is and as the table says`);
    assert.deepEqual(this.reported.sort(), this.reports.sort(), `${kind}: reported, as it is and as the table says`);
    [this.sends, this.reports, this.reported] = [[], [], []];
    for (const [user, { known }] of this.states) assert.equal(this.client.get(user)?.state ?? 'unknown', known, `${kind}: ${user}`);
  }

  /** Once every message has arrived, the client knows what is true of the users who are watched, and nothing else. */
  async end() {
    this.daemon.full = false;
    do {
      await this.connect();
      this.compare('connect');
      while (this.daemon.queue.length) {
        this.receive();
        this.compare('receive');
      }
    } while (!this.up);
    for (const [user, { desired, known }] of this.states) {
      assert.equal(known, desired ? this.daemon.object(user).state : 'unknown', user);
    }
    assert.equal(this.client.state, 'live');
    this.client.close();
  }
}

for (let run = 0; run < runs; run++) {
  const world = new World(), steps = [];
  // The client connects by itself at first; the table begins without a connection.
  world.client.close();
  world.daemon.forget();
  await settle();
  try {
    for (let n = draw(60); n > 0; n--) steps.push(await world.step());
    await world.end();
  } catch (why) {
    why.message += `\nseed ${seed}, run ${run}: ${steps.join(', ')}`;
    throw why;
  }
}
console.log(`${runs} runs follow the table`);
