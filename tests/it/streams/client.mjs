// Runs the client that the daemon serves. Reads calls from standard input and prints events, each as a line of JSON.
import { createInterface } from 'node:readline';

const [url, { tokens, ...options }] = [process.argv[2], JSON.parse(process.argv[3])];
const source = await (await fetch(new URL('/keybeat.js', url))).text();
const { Keybeat } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

const say = (type, detail) => console.log(JSON.stringify({ type, detail }));
const token = tokens && (() => (tokens.length > 1 ? tokens.shift() : tokens[0]));
const keybeat = new Keybeat({ url, ...(token && { token }), ...options });
for (const type of ['change', 'status', 'group', 'members', 'occupancy', 'state', 'redis', 'refused']) {
  keybeat.addEventListener(type, ({ detail }) => say(type, detail));
}
createInterface({ input: process.stdin }).on('line', (line) => {
  const { call, args = [] } = JSON.parse(line);
  const answer = call === 'users' ? [...keybeat.users.keys()].sort() : keybeat[call](...args);
  say('answer', answer ?? null);
}).on('close', () => process.exit());
