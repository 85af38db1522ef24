// A WebSocket server in Node that sends each change to all sockets, as the documentation of `ws` shows it.
import { createInterface } from 'node:readline';
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 4096, perMessageDeflate: false });
server.on('listening', () => console.log(server.address().port));
server.on('connection', (socket) => socket.send('{"type":"snapshot"}'));

const message = (number) => JSON.stringify({
  type: 'transitions',
  seq: number,
  transitions: [{
    seq: number, user: 'crowd', state: 'online', at_ms: 1690000000000, since_ms: 1690000000000, reason: 'heartbeat',
  }],
});

createInterface({ input: process.stdin }).on('line', (line) => {
  const data = message(Number(line));
  for (const client of server.clients) client.send(data);
}).on('close', () => process.exit(0));
