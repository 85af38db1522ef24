/** The console: watches everybody, and passes changes to the grid, the charts, the feed and the health panel. */

import { Keybeat } from '../keybeat.js';
import { Chart } from './charts.js';
import { Details } from './details.js';
import { Grid } from './grid.js';
import { renderHealth, renderReady } from './health.js';
import { LEFT_MS, Roster } from './roster.js';
import { $, clock, fold, make, number, plural, setSkew, setText, short } from './tools.js';

const FEED_ROWS = 200;                  // maximum elements in the page
const RENDER_MS = 100, FLOOD_MS = 400;  // minimum time between redraws; in a flood people cannot read more
const FLOOD = 200;                      // transitions per second
const POLL_MS = 2000, ANSWER_MS = 3000;

// ---- State
const roster = new Roster();
let haveView = false;                   // a snapshot has arrived
const latest = [];                      // transitions of the feed, newest first

const details = new Details(roster, askUser, (user) => latest.filter((one) => one.user === user));
const grid = new Grid(roster, (user, byKey) => details.open(user, byKey));
details.attach(grid);

const charts = {
  online: new Chart('online-chart', { title: 'Users online' }),
  rate: new Chart('rate-chart', { title: 'Transitions per second', counts: true, fromZero: true }),
  lag: new Chart('lag-chart', { title: 'Detection lag in milliseconds', series: ['p50', 'p99'], fromZero: true }),
};

function applyTransitions(transitions) {
  for (const one of transitions) {
    roster.apply(one);
    addToFeed(one);
  }
  charts.rate.add(transitions.length);
  renderSoon();
}

// ---- Drawing
let renderDue = false, lastRender = -Infinity;

function renderSoon() {
  if (renderDue) return;
  renderDue = true;
  const pause = (charts.rate.whole.at(-1)?.[0] ?? 0) > FLOOD ? FLOOD_MS : RENDER_MS;
  setTimeout(() => requestAnimationFrame(render), Math.max(0, lastRender + pause - performance.now()));
}

function render() {
  renderDue = false;
  lastRender = performance.now();
  roster.pick();
  renderWords(); // before the grid, because the texts may replace it
  grid.draw();
  renderFeed();
  details.draw();
  if (roster.fading && !roster.held) setTimeout(renderSoon, LEFT_MS);
}

function renderWords() {
  const { needle, kind, held, matches } = roster, size = roster.users.size;
  if (haveView) setText($('online'), number.format(size));
  const among = kind === 'left' ? plural(matches, 'user') + ' went offline while this page was open' : `${number.format(matches)} went online in the last minute`;
  const all = kind === 'online' ? 'Newest first' : among;
  setText($('matches'), !haveView ? '' : needle ? `${number.format(matches)} of ${number.format(kind === 'left' ? roster.left.size : size)} match` : all);
  $('release').hidden = !held;
  if (held) setText($('release'), held.came || held.left ? `Paused: ${number.format(held.came)} came, ${number.format(held.left)} left since. Show` : 'Paused. Back to the newest');
  const empty = haveView && !size && kind === 'online' && !needle && !roster.shown.length;
  $('empty').hidden = !empty;
  const nobody = haveView && !empty && !roster.shown.length;
  $('nobody').hidden = !nobody;
  if (!nobody) return;
  setText($('nobody-words'), needle ? 'No user matches.' : 'No users yet.');
  $('look-up').hidden = !needle;
  setText($('look-up'), `Look up ${$('filter').value.trim()}`);
}

// ---- The feed
let unseen = [];                        // not drawn yet, oldest first

function addToFeed(entry) {
  unseen.push(entry);
  latest.unshift(entry);
  if (latest.length > FEED_ROWS) latest.length = FEED_ROWS;
  if (unseen.length > 2 * FEED_ROWS) unseen = unseen.slice(-FEED_ROWS); // a hidden page draws nothing, so the list needs a limit
}

function renderFeed() {
  if (!unseen.length) return;
  $('feed').prepend(...unseen.slice(-FEED_ROWS).reverse().map(feedRow));
  unseen = [];
  while ($('feed').childElementCount > FEED_ROWS) $('feed').lastElementChild.remove();
}

function feedRow(entry) {
  if (entry.gap) return make('li', 'soft', 'Reconnected. Transitions before this are not listed');
  const row = make('li', entry.state), name = make('bdi', 'name', entry.user), dot = make('span', 'dot');
  name.title = entry.user;
  dot.setAttribute('aria-hidden', 'true');
  const state = make('span', `state ${entry.state}`, entry.state);
  state.prepend(dot);
  row.append(make('time', 'soft', clock.format(entry.at_ms)), name, state, make('span', 'soft', entry.reason));
  return row;
}

// ---- The daemon's figures
let polls = 0, polling = false, unanswered = 0;
let lag = null;                         // the latest percentiles

/** The daemon's address. A proxy may serve it below a path. */
const DAEMON = new URL('..', import.meta.url);
const ask = (path, body) => fetch(new URL(path, DAEMON), {
  method: body ? 'POST' : 'GET', body: body && JSON.stringify(body), cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS),
  headers: { ...(body && { 'Content-Type': 'application/json' }), ...(token && { Authorization: `Bearer ${token}` }) },
});

async function poll() {
  if (polling || document.hidden) return;
  polling = true;
  const asked = performance.now();
  try {
    const answer = await ask('v1/stats');
    unanswered = 0;
    setSkew(Date.parse(answer.headers.get('date')) + 500 - Date.now()); // the header has whole seconds
    const stats = answer.ok ? await answer.json() : {};
    renderStats(stats);
    // A status message that arrived after the request is newer than the answer.
    if (stats.redis?.status && redisStatusAt < asked) setRedis(stats.redis.status, redisSince);
    if (answer.ok && polls++ % 3 === 0) await refreshSessions();
    renderReady(await (await ask('readyz')).text());
    await details.refresh();
  } catch {
    if (++unanswered >= 3) keybeat?.reconnect(); // the daemon vanished: without this the connection would look open for minutes
  } finally {
    polling = false;
  }
}

function renderStats(stats) {
  lag = stats.lag_ms?.count ? stats.lag_ms : null;
  $('lag').querySelectorAll('dd').forEach((cell, i) => {
    const value = lag?.[['p50', 'p99', 'max'][i]];
    setText(cell, Number.isFinite(value) ? short(value) : '–');
  });
  setText($('samples'), lag ? `latest ${number.format(lag.count)}` : 'no samples yet');
  const counts = [[stats.sessions, 'session'], [stats.sockets, 'socket']].filter(([n]) => Number.isFinite(n));
  setText($('counts'), counts.map(([n, word]) => plural(n, word)).join(' · '));
  renderHealth(stats);
}

/** A second session of a user is no transition, so the page queries visible users from time to time. */
async function refreshSessions() {
  const names = grid.inSight;
  if (!names.length) return;
  const answer = await ask('v1/users/query', { users: names });
  if (!answer.ok) return;
  for (const { user, state, sessions } of (await answer.json()).users) {
    const one = roster.users.get(user);
    if (state === 'online' && one) one.sessions = sessions;
  }
  renderSoon();
}

/** The daemon's object of one user. The name is in the body, because a path cannot contain every name. */
async function askUser(user) {
  const answer = await ask('v1/users/query', { users: [user] });
  return answer.ok ? (await answer.json()).users[0] : null;
}

// ---- The connection
let keybeat = null, phase = 'connecting'; // connecting, live, waiting, stopped
let redis = 'up', redisSince = null, redisStatusAt = -Infinity;
let token = '', stopReason = '', retryAt = 0;
let askedReady = false;                 // in this outage

/** Texts for the client's reasons to stop. */
const STOPPED = {
  unauthorized: 'A valid token is required',
  invalid_token: 'A valid token is required',
  token_expired: 'The token has expired. A new one is required',
  forbidden: 'Not allowed: this token may not watch everybody',
};

function connect() {
  keybeat?.close();
  token = new URLSearchParams(location.hash.slice(1)).get('token') ?? ''; // after the #, so that no server logs it
  [redis, redisSince, unanswered] = ['up', null, 0];
  const mine = new Keybeat({ url: DAEMON, token });
  const on = (type, handle) => mine.addEventListener(type, ({ detail }) => { if (mine === keybeat) handle(detail); });
  on('state', handleState);
  on('snapshot', takeSnapshot);
  on('transitions', (transitions) => { if (phase === 'live') applyTransitions(transitions); });
  on('redis', (status) => {
    redisStatusAt = performance.now();
    setRedis(status.redis, status.since_ms);
  });
  on('refused', ({ code, message }) => giveUp(STOPPED[code] ?? `The daemon refused: ${message}`, code in STOPPED));
  keybeat = mine;
  mine.watchAll();
}

function handleState({ state, reason, retry_ms }) {
  if (state === 'stopped') {
    const code = reason.split(':')[0];
    return giveUp(STOPPED[code] ?? reason, code in STOPPED);
  }
  $('ask').hidden = true;
  if (state === 'connecting') [redis, redisSince, unanswered] = ['up', null, 0];
  if (state === 'waiting') {
    retryAt = performance.now() + retry_ms;
    if (!askedReady) askReady();
  }
  setPhase(state);
  if (state !== 'live') return;
  askedReady = false;
  poll();
}

/** Without a connection, /readyz may still know the cause. Once per outage is enough. */
async function askReady() {
  askedReady = true;
  renderReady(await ask('readyz').then((answer) => answer.text(), () => null));
}

function takeSnapshot({ users }) {
  if (haveView) addToFeed({ gap: true });
  roster.replace(users);
  haveView = true;
  charts.rate.begin();
  renderSoon();
}

function giveUp(reason, askForToken = false) {
  const mine = keybeat;
  keybeat = null;
  mine?.close();
  $('ask').hidden = !askForToken;
  stopReason = reason;
  setPhase('stopped');
  askReady();
}

function setPhase(to) {
  phase = to;
  renderState();
}

function setRedis(status, since) {
  redis = status;
  redisSince = since;
  renderState();
}

// ---- The state of the connection, as shape and text
const SHAPES = { // disc, ring, triangle, diamond, cross
  live: 'M8 1a7 7 0 1 1 0 14A7 7 0 1 1 8 1z',
  connecting: 'M8 1a7 7 0 1 1 0 14A7 7 0 1 1 8 1zm0 3a4 4 0 1 0 0 8a4 4 0 1 0 0-8z',
  waiting: 'M8 1l8 14H0z',
  down: 'M8 0l8 8-8 8-8-8z',
  stopped: 'M3 0l5 5 5-5 3 3-5 5 5 5-3 3-5-5-5 5-3-3 5-5-5-5z',
};

function describeState() {
  if (phase === 'connecting') return ['connecting', haveView ? 'Connecting' : 'Connecting…'];
  if (phase === 'waiting') return ['waiting', 'Reconnecting'];
  if (phase === 'stopped') return ['stopped', stopReason];
  if (redis === 'down') return ['down', `Redis down${redisSince ? ` since ${clock.format(redisSince)}` : ''}`];
  if (redis === 'reconciling') return ['down', 'Redis is back, reconciling'];
  return ['live', 'Live'];
}

function renderState() {
  const [shape, words] = describeState();
  const stale = haveView && shape !== 'live';
  $('pill').dataset.shape = shape;
  $('pill').querySelector('path').setAttribute('d', SHAPES[shape]);
  setText($('words'), words);
  setText($('countdown'), phase === 'waiting' ? ` in ${Math.max(1, Math.ceil((retryAt - performance.now()) / 1000))} s` : '');
  setText($('warning'), stale ? '. The data may be stale' : '');
  document.body.classList.toggle('stale', stale);
}

// ---- Clocks, keys, buttons
function tick() {
  const live = phase === 'live' && haveView, stale = document.body.classList.contains('stale');
  charts.online.set(live ? [roster.users.size] : null);
  charts.lag.set(live && lag ? [lag.p50, lag.p99] : null);
  charts.rate.roll();
  for (const chart of Object.values(charts)) chart.draw();
  renderRate();
  if (haveView) document.title = `${number.format(roster.users.size)} online${stale ? ' (stale)' : ''} · keybeat`;
  if (roster.kind === 'recent') renderSoon(); // users stop being new
  else grid.draw();
  details.draw();
}

function renderRate() {
  const counts = charts.rate.whole.map(([n]) => n);
  if (!counts.length) return;
  const recent = counts.slice(-10);
  setText($('rate'), short(recent.reduce((sum, n) => sum + n, 0) / recent.length));
  setText($('peak'), `peak ${number.format(Math.max(...counts))} in 2 min`);
}

function setFilter() {
  roster.needle = fold($('filter').value.trim());
  roster.kind = document.querySelector('#kinds :checked').value;
  release();
}

function release() {
  grid.release();
  roster.hold(false);
  renderSoon();
}

function keyOnPage(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = document.activeElement?.matches('input:not([type=radio])');
  if (event.key === '/' && !typing) {
    event.preventDefault();
    $('filter').select();
  } else if (event.key === 'Escape') escape();
}

/** One step back: close the details, then clear the search, then return to the newest. */
function escape() {
  if (details.close()) return;
  if ($('filter').value) {
    $('filter').value = '';
    setFilter();
  } else release();
}

/** Keys in the search field: Down enters the grid, Enter opens the first match. */
function keyInFilter(event) {
  if (event.key === 'ArrowDown' && roster.shown.length) {
    event.preventDefault();
    grid.focus();
  } else if (event.key === 'Enter' && $('filter').value.trim()) {
    event.preventDefault(); // otherwise it would press the button that gets the focus
    roster.pick();
    details.open(roster.shown[0]?.user ?? $('filter').value.trim(), true);
  }
}

/** Puts the token after the #, so that a reload keeps it and no server logs it. */
function useToken(event) {
  event.preventDefault();
  location.hash = new URLSearchParams({ token: $('token').value.trim() });
  $('token').value = '';
}

function copy({ target }) {
  const code = target.previousElementSibling;
  getSelection().selectAllChildren(code); // if the page may not write to the clipboard, Ctrl+C works
  const show = (text) => { target.textContent = text; };
  Promise.resolve(navigator.clipboard?.writeText(code.textContent)).then(() => show(navigator.clipboard ? 'Copied' : 'Selected'), () => show('Selected'));
  setTimeout(show, 1500, 'Copy');
}

const pollIfLive = () => { if (phase === 'live') poll(); };
$('curl').textContent = `curl -X PUT ${DAEMON}v1/users/alice/heartbeat`;
$('filter').addEventListener('input', setFilter);
$('filter').addEventListener('keydown', keyInFilter);
$('kinds').addEventListener('change', setFilter);
$('release').addEventListener('click', release);
$('users').addEventListener('scroll', renderSoon, { passive: true }); // scrolling may hold or release the list
$('users').addEventListener('keydown', renderSoon);
$('look-up').addEventListener('click', () => details.open($('filter').value.trim(), true));
document.querySelectorAll('.command button').forEach((button) => button.addEventListener('click', copy));
$('ask').addEventListener('submit', useToken);
addEventListener('keydown', keyOnPage);
addEventListener('hashchange', () => { if (phase === 'waiting' || phase === 'stopped') connect(); }); // a new token
document.addEventListener('visibilitychange', pollIfLive);
setInterval(pollIfLive, POLL_MS);
setInterval(tick, 1000);
setInterval(() => { if (phase === 'waiting') renderState(); }, 250);
setFilter(); // a reload keeps the search text
connect();
