/** The console: watches everybody, and passes changes to the grid, the charts, the feed and the health panel. */

import { DAEMON, copyButtons, curl } from './actions.js';
import { Chart } from './charts.js';
import { Connection } from './connection.js';
import { Details } from './details.js';
import { Grid } from './grid.js';
import { Groups } from './groups.js';
import { renderHealth, renderReady } from './health.js';
import { addHelp } from './help.js';
import { LEFT_MS, Roster } from './roster.js';
import { search } from './search.js';
import { $, clock, make, number, plural, setKnown, setSkew, setText, short } from './tools.js';

const FEED_ROWS = 200;                  // maximum elements in the page
const RENDER_MS = 100, FLOOD_MS = 400;  // minimum time between redraws; in a flood people cannot read more
const FLOOD = 200;                      // transitions per second
const POLL_MS = 2000;

// ---- State
const roster = new Roster();
const latest = [];                      // transitions of the feed, newest first
let stats = null;                       // the daemon's last answer; null: it does not answer
let answering = false;                  // the daemon answered until now
let knownAt = null;                     // when the users were last known to be right, on the page's clock

const connection = new Connection({ state: stateChanged, live: poll, ready: renderReady, snapshot: takeSnapshot, transitions: applyTransitions, status: renderSoon, group: (name, counts) => groups.take(name, counts) });
const details = new Details(roster, connection, (user) => latest.filter((one) => one.user === user));
const grid = new Grid(roster, (user, byKey) => details.open(user, byKey), (user) => connection.status(user));
details.attach(grid);
const groups = new Groups(connection);

const charts = {
  online: new Chart('online-chart', { title: 'Users online' }),
  rate: new Chart('rate-chart', { title: 'Transitions per second', counts: true, fromZero: true }),
  lag: new Chart('lag-chart', { title: 'Detection lag of the last minute in milliseconds', series: ['p50', 'p99'], log: true }),
};

function takeSnapshot(users) {
  if (connection.haveView) addToFeed({ gap: true });
  roster.replace(users);
  charts.rate.begin();
  renderSoon();
}

function applyTransitions(transitions) {
  for (const one of transitions) {
    roster.apply(one);
    addToFeed(one);
    if (one.user === details.user) details.refresh();
  }
  charts.rate.add(transitions.length);
  renderSoon();
}

/** Everything that is unknown is greyed: what the daemon says while it does not answer, and the users while Redis is away too. */
function stateChanged(stale) {
  if (!stale && connection.haveView) knownAt = null;
  else if (stale) knownAt ??= Date.now();
  if (!connection.answers) renderStats(null);
  if (answering && !connection.answers) renderReady(undefined);
  answering = connection.answers;
  groups.draw();
  $('forget').hidden = !connection.token;
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
  renderCounts();
  grid.draw();
  renderFeed();
  details.draw();
  if (roster.fading && !roster.held) setTimeout(renderSoon, LEFT_MS);
}

function renderWords() {
  const { kind, held, matches } = roster, size = roster.users.size, { haveView } = connection;
  const needle = $('filter').value.trim();
  const among = kind === 'left' ? plural(matches, 'user') + ' went offline while this page was open' : `${number.format(matches)} went online in the last minute`;
  const all = kind === 'online' ? 'Select a user to see sessions and keys' : among;
  setText($('matches'), !haveView ? '' : needle ? `${number.format(matches)} of ${number.format(kind === 'left' ? roster.left.size : size)} match` : all);
  const since = held?.came || held?.left ? `: ${number.format(held.came)} came, ${number.format(held.left)} left since` : '';
  setText($('paused'), held && grid.pointed ? `Paused while the pointer is on the list${since}` : '');
  $('release').hidden = !held || grid.pointed;
  if (held) setText($('release'), since ? `Paused${since}. Show` : 'Paused. Back to the beginning');
  const empty = haveView && !size && kind === 'online' && !needle && !roster.shown.length;
  $('empty').hidden = !empty;
  const nobody = haveView && !empty && !roster.shown.length;
  $('nobody').hidden = !nobody;
  if (!nobody) return;
  setText($('nobody-words'), needle ? 'No user matches.' : 'No users yet.');
  $('look-up').hidden = !needle;
  setText($('look-up'), `Look up ${needle}`);
}

/** One number of users for the whole page; sessions are these users and the further sessions that the daemon counts. */
function renderCounts() {
  const { users_online, sessions, sockets } = stats ?? {}, size = roster.users.size;
  if (connection.haveView) setText($('online'), number.format(size));
  const known = Number.isFinite(sessions) && Number.isFinite(users_online);
  const words = [known && plural(size + Math.max(0, sessions - users_online), 'session'), Number.isFinite(sockets) && plural(sockets, 'socket')];
  const asOf = knownAt === null ? null : `as of ${clock.format(knownAt)}`;
  setText($('counts'), asOf ?? words.filter(Boolean).join(' · '));
  for (const id of ['online', 'counts']) $(id).classList.toggle('unknown', knownAt !== null);
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
let polls = 0, polling = false;

async function poll() {
  if (polling || document.hidden) return;
  polling = true;
  const asked = performance.now();
  try {
    const answer = await connection.ask('GET', 'v1/stats');
    setSkew(Date.parse(answer.headers.get('date')) + 500 - Date.now()); // the header has whole seconds
    const body = answer.ok ? await answer.json() : {};
    connection.answered(asked, body.redis?.status);
    renderStats(body);
    if (polls++ % 3 === 0) await refreshSessions();
    renderReady(await connection.readiness());
    await details.refresh();
  } catch {
    connection.notAnswered();
  } finally {
    polling = false;
  }
}

/** `null`: the daemon does not answer. */
function renderStats(answer) {
  stats = answer;
  const lag = stats?.lag_last_minute_ms;
  $('lag').querySelectorAll('dd').forEach((cell, i) => {
    const value = lag?.[['p50', 'p99', 'max'][i]];
    setText(cell, Number.isFinite(value) ? short(value) : '–');
    cell.classList.toggle('unknown', stats === null);
  });
  setText($('samples'), !lag ? '' : lag.count ? `${number.format(lag.count)} ${lag.count === 1 ? 'expiry' : 'expiries'} in 1 min` : 'no expiry in 1 min');
  renderCounts();
  renderHealth(stats);
}

/** A second session of a user is no transition, so the page queries visible users from time to time. */
async function refreshSessions() {
  const names = grid.inSight;
  if (!names.length) return;
  const answer = await connection.ask('POST', 'v1/users/query', { users: names });
  if (!answer.ok) return;
  for (const { user, state, sessions } of (await answer.json()).users) if (state === 'online') roster.setSessions(user, sessions);
  renderSoon();
}

// ---- Clocks, keys, buttons
function tick() {
  const { live } = connection, stale = document.body.classList.contains('stale'), lag = stats?.lag_last_minute_ms;
  charts.online.set(live ? [roster.users.size] : null);
  charts.lag.set(live && lag?.count ? [lag.p50, lag.p99] : null);
  charts.rate.known = live;
  charts.rate.roll();
  for (const chart of Object.values(charts)) chart.draw();
  renderRate(stale);
  if (connection.haveView) document.title = `${number.format(roster.users.size)} online${stale ? ' (stale)' : ''} · keybeat`;
  if (roster.kind === 'recent') renderSoon(); // users stop being new
  else grid.draw();
  details.draw();
}

function renderRate(stale) {
  const counts = charts.rate.whole.filter(Boolean).map(([n]) => n);
  $('rate').classList.toggle('unknown', stale);
  if (stale || !counts.length) return setText($('rate'), '–');
  const recent = counts.slice(-10);
  setText($('rate'), short(recent.reduce((sum, n) => sum + n, 0) / recent.length));
  setText($('peak'), `peak ${number.format(Math.max(...counts))} in 2 min`);
}

/** Reads the search, the kind, the order and the view from their fields. */
function setFilter() {
  roster.search = search($('filter').value);
  roster.kind = document.querySelector('#kinds :checked').value;
  const [by, order] = $('sort').value.split(' ');
  roster.sort(by, order === 'down');
  grid.show(document.querySelector('#views :checked').value);
  release();
}

function release() {
  grid.release();
  renderSoon();
}

/** A column of the table sorts by it, and the other way round if it does already. */
function sortBy({ target }) {
  const { by } = target.closest('[data-by]').dataset;
  const down = by === roster.by ? !roster.down : by !== 'user';
  $('sort').value = `${by} ${down ? 'down' : 'up'}`;
  setFilter();
}

function keyOnPage(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open], :popover-open')) return;
  const typing = document.activeElement?.matches('input:not([type=radio])');
  if (event.key === '/' && !typing) {
    event.preventDefault();
    $('filter').select();
  } else if (event.key === 'Escape') escape();
}

/** One step back: close the details, then clear the search, then return to the beginning. */
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

function useToken(event) {
  event.preventDefault();
  connection.useToken($('token').value.trim());
  $('token').value = '';
}

const pollIfLive = () => { if (connection.connected) poll(); };
$('curl').textContent = curl('PUT', new URL('v1/users/alice/heartbeat', DAEMON), false);
$('filter').addEventListener('input', setFilter);
$('filter').addEventListener('keydown', keyInFilter);
for (const id of ['kinds', 'views', 'sort']) $(id).addEventListener('change', setFilter);
for (const button of document.querySelectorAll('#columns button')) button.addEventListener('click', sortBy);
$('release').addEventListener('click', release);
$('users').addEventListener('held', renderSoon);
$('users').addEventListener('scroll', renderSoon, { passive: true }); // scrolling may hold or release the list
$('users').addEventListener('keydown', renderSoon);
$('look-up').addEventListener('click', () => details.open($('filter').value.trim(), true));
$('ask').addEventListener('submit', useToken);
$('forget').addEventListener('click', () => connection.useToken(''));
addEventListener('keydown', keyOnPage);
addEventListener('hashchange', () => connection.takeToken());
document.addEventListener('visibilitychange', pollIfLive);
copyButtons();
addHelp();
setInterval(pollIfLive, POLL_MS);
setInterval(tick, 1000);
setInterval(() => { if ($('pill').dataset.shape === 'waiting') connection.draw(); }, 250);
setFilter(); // a reload keeps the search text
if (!connection.takeToken()) connection.connect();
