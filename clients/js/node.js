// In Node. Version 22 has WebSockets; for version 20 they come from the package ws.
import { createRequire } from 'node:module';
import { Keybeat as Client } from './keybeat.js';

export class Keybeat extends Client {
  constructor(options = {}) {
    const WebSocket = options.WebSocket ?? globalThis.WebSocket ?? fromPackage();
    if (!WebSocket) throw new TypeError(`Node ${process.versions.node} has no WebSocket; install the package: npm install ws`);
    super({ ...options, WebSocket });
  }
}

/** Not by an import: that would have to wait, and then `require('keybeat')` would fail. */
function fromPackage() {
  try {
    return createRequire(import.meta.url)('ws').WebSocket;
  } catch {
    return undefined;
  }
}
