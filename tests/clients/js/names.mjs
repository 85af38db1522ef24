// Watches names that no daemon takes, with a WebSocket that records the messages: each name is refused, and the others are watched.
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
client.close();
console.log('names that no daemon takes are refused by themselves');
