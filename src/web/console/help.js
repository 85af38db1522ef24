/** Explains the words of the console: a button next to each word opens a text with a link. */

import { $, make } from './tools.js';

/** Text, and where the fields of the daemon's answer are described. */
const TEXTS = {
  users: ['A user is online while at least one of the user’s keys in Redis is live. A session is one device or tab, with a key of its own; a user with two sessions counts once.', 'docs#schema-Stats'],
  transitions: ['A transition is a user who goes online or offline. A heartbeat of a user who is already online is none.', 'docs#schema-TransitionObject'],
  lag: ['How late the daemon noticed that a TTL had run out, in the last minute. Goodbyes and deleted keys do not count. p50: half of the expiries were noticed within this time. p99: 99 of 100. The scale of the chart is logarithmic, so that both can be read.', 'docs#schema-Percentiles'],
  ready: ['Ready: the daemon follows every Redis server, has compared all keys with it, and its event stream is verified. Load balancers ask the same at /readyz.', 'docs'],
  redis: ['Down: the daemon cannot follow at least one Redis server. Nobody changes state until it is back and compared; what the page shows may be outdated.', 'docs#schema-RedisStats'],
  source: ['How the daemon learns of heartbeats and ends. Events of Redis are immediate. Polling is the fallback where Redis allows neither events nor client tracking; it is seconds late. With several daemons, one listens to heartbeats for all.', 'docs#schema-RedisStats'],
  gaps: ['A gap: a time in which the daemon may have missed events of Redis, such as a lost connection or a failover. After each gap it compares all keys with Redis and reports what it missed.', 'docs#schema-Stats'],
  repairs: ['Transitions that were missed in a gap and found by the comparison. Clients receive them with the reason “reconciled”.', 'docs#schema-Stats'],
  immortal: ['A key without a TTL never expires. Programs must set keys with a TTL: SET presence:alice 1 EX 30.', 'docs#schema-Stats'],
  stream: ['The Redis Stream with one entry for each transition (--stream).', 'docs#schema-Stats'],
  webhooks: ['The receivers of transitions over HTTP (--webhook).', 'docs#schema-Stats'],
  groups: ['A group is a Redis SET of users: SADD presence-group:team-a alice bob. Enter team-a to follow how many of its members are online.', 'docs#schema-GroupAnswer'],
  search: ['Finds names that contain the text; case and accents do not matter. With * (any text), ? (one character) or [abc], the whole name has to match: a*, team-?, [xyz]*. A backslash makes the next character literal.', 'docs'],
};

/** Adds a button to each element with `data-help`. The buttons share one popover, which the browser closes on Escape. */
export function addHelp() {
  for (const element of document.querySelectorAll('[data-help]')) {
    const button = make('button', 'help', '?'), [text, link] = TEXTS[element.dataset.help];
    button.type = 'button';
    button.setAttribute('aria-label', `Explain: ${element.dataset.word ?? element.textContent.trim()}`);
    button.popoverTargetElement = $('help');
    button.addEventListener('click', () => {
      $('help-text').textContent = text;
      $('help-link').href = link;
    });
    element.append(' ', button);
  }
}
