// Watches names that no daemon takes, and sends statuses, with a WebSocket that records the messages: what no daemon takes is refused.
// node names.mjs PACKAGE: the file of the client
import { strict as assert } from 'node:assert';
import { pathToFileURL } from 'node:url';

const { Keybeat } = await import(pathToFileURL(process.argv[2]));

/** A daemon that is always there and never answers. */
class Recorder {
  static sent = [];
  constructor() { queueMicrotask(() => this.onopen()); }
  send(text) { Recorder.sent.push(JSON.parse(text)); }
  close() {}
}

const client = new Keybeat({ url: 'http://127.0.0.1:7400', WebSocket: Recorder });
const refused = [];
client.addEventListener('refused', ({ detail: { code, users, group } }) => refused.push([code, users, group]));
const long = 'x'.repeat(70_000);
// The first and the third one have half an emoji.
const invalid = ['carl\ud83d', '', '\udc9acarl', 'c#d', 'c\x9fd', long, 'é'.repeat(129)];
client.watch([...invalid, 'bob', 'carl💚', 'é'.repeat(128)]);
client.watchGroups([...invalid, 'team-a', 'team-💚']);
await new Promise((done) => setTimeout(done));

assert.deepEqual(refused, [['invalid_user', invalid, undefined], ...invalid.map((name) => ['invalid_group', [], name])]);
assert.deepEqual(Recorder.sent.map(({ users, groups }) => users ?? groups), [['bob', 'carl💚', 'é'.repeat(128)], ['team-a'], ['team-💚']]);

[refused.length, Recorder.sent.length] = [0, 0];
const circle = {};
circle.circle = circle;
assert.throws(() => client.setStatus(circle), TypeError);
const statuses = [long, 'é'.repeat(512), '\x01'.repeat(171), ['x'.repeat(1020)], { text: 'é'.repeat(506) }, null];
assert.deepEqual(statuses.map((status) => client.setStatus(status)), [false, false, false, true, true, true]);
assert.deepEqual([long, 'c#d', 'carl', undefined].map((user) => client.heartbeat(user)), [false, false, true, true]);
await new Promise((done) => setTimeout(done));
assert.deepEqual(refused.map(([code]) => code), ['too_large', 'too_large', 'too_large', 'invalid_user', 'invalid_user']);
assert.deepEqual(Recorder.sent.map(({ type }) => type), ['set_status', 'set_status', 'set_status', 'heartbeat', 'heartbeat']);
client.close();

const half = new Keybeat({ url: 'http://127.0.0.1:7400', user: 'carl\ud83d', WebSocket: Recorder });
await assert.rejects(half.ready(), /invalid_request: .* surrogate pair/);
console.log('names and statuses that no daemon takes are refused by themselves');
