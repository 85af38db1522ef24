// In Node. Version 22 has WebSockets; for version 20 they come from the package ws.
import { Keybeat as Client } from './keybeat.js';

const WebSocket = globalThis.WebSocket ?? await import('ws').then(({ WebSocket }) => WebSocket, () => undefined);

export class Keybeat extends Client {
  constructor(options = {}) {
    const chosen = options.WebSocket ?? WebSocket;
    if (!chosen) throw new TypeError(`Node ${process.versions.node} has no WebSocket; install the package: npm install ws`);
    super({ ...options, WebSocket: chosen });
  }
}
