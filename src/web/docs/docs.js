/** The page at /docs: renders /openapi.json and sends GET requests for a try. */

/** The daemon's address. A proxy may serve it below a path. */
const DAEMON = new URL('..', import.meta.url);
const below = (path) => (path.startsWith('/') ? new URL(path.slice(1), DAEMON) : path);

/** The OpenAPI document, once it is loaded. */
let api;
const METHODS = ['get', 'put', 'post', 'delete'];

/** An element with attributes and children; texts are never markup. */
function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Prose of the description: paragraphs, `code` and [links](of this daemon). */
function prose(text) {
  const parts = text.split(/(`[^`]*`|\[[^\]]*\]\(\/[^)]*\))/).map((part) => {
    if (part.startsWith('`')) return el('code', {}, part.slice(1, -1));
    const link = /^\[([^\]]*)\]\((\/[^)]*)\)$/.exec(part);
    return link ? el('a', { href: below(link[2]) }, link[1]) : part;
  });
  return el('span', {}, ...parts);
}

const paragraphs = (text) => text.split('\n\n').map((one) => el('p', {}, prose(one)));

/** The target of a reference. */
function resolve(thing) {
  if (!thing?.$ref) return thing;
  return thing.$ref.slice(2).split('/').reduce((at, key) => at?.[key.replaceAll('~1', '/').replaceAll('~0', '~')], api);
}

/** A short text for a schema, with links to named schemas. */
function words(schema) {
  if (!schema) return 'nothing';
  if (schema.$ref) {
    const name = schema.$ref.split('/').pop();
    return el('a', { href: `#schema-${name}` }, name);
  }
  const join = (some, by) => el('span', {}, ...some.flatMap((one, i) => (i ? [by, words(one)] : [words(one)])));
  if (schema.oneOf) return join(schema.oneOf, ' or ');
  if (schema.allOf) return join(schema.allOf, ' with ');
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(' or ');
  if (schema.type === 'array') return el('span', {}, 'list of ', words(schema.items), limits(schema));
  if (schema.type === 'object' && schema.properties) {
    const fields = Object.entries(schema.properties).flatMap(([key, value], i) => [i ? ', ' : '', `${key}: `, words(value)]);
    return el('span', {}, '{ ', ...fields, ' }');
  }
  return el('span', {}, [schema.type ?? 'anything'].flat().join(' or '), limits(schema));
}

function limits(schema) {
  const { minimum, maximum, minLength, maxLength, maxItems, pattern } = schema;
  const parts = [];
  if (minimum !== undefined || maximum !== undefined) parts.push(maximum === undefined ? `at least ${minimum}` : `${minimum} to ${maximum}`);
  if (maxLength !== undefined) parts.push(`${minLength ?? 0} to ${maxLength} characters`);
  if (maxItems !== undefined) parts.push(`at most ${maxItems}`);
  if (pattern) parts.push(pattern);
  return parts.length ? `, ${parts.join(', ')}` : null;
}

function section(title, pairs) {
  if (!pairs.length) return null;
  const list = el('dl', {}, ...pairs.flatMap(([term, ...texts]) => [el('dt', {}, el('code', {}, term)), el('dd', {}, ...texts)]));
  return el('section', {}, el('h3', {}, title), list);
}

function operation(path, method, spec) {
  const parameters = (spec.parameters ?? []).map(resolve);
  const body = resolve(spec.requestBody);
  const description = spec.description ? paragraphs(spec.description) : [];
  const inside = el('div', {}, ...description,
    section('Parameters', parameters.map((one) => [
      one.name, `${one.in}${one.required ? ', required' : ''}: `, words(one.schema), one.description ? el('div', { class: 'soft' }, prose(one.description)) : null,
    ])),
    body ? section('Body', Object.entries(body.content).map(([kind, { schema }]) => [kind, body.required === false ? 'optional: ' : '', words(schema)])) : null,
    section('Responses', Object.entries(spec.responses).map(([status, answer]) => {
      const { description, content } = resolve(answer);
      const shape = Object.entries(content ?? {}).map(([kind, { schema }]) => el('div', { class: 'soft' }, `${kind}: `, words(schema)));
      return [status, prose(description), ...shape];
    })),
    section('Security', (spec.security ?? []).flatMap((one) => Object.keys(one)).map((name) => [
      name, prose(api.components.securitySchemes[name].description),
    ])),
    method === 'get' && spec.tags?.[0] !== 'streams' ? trial(path, parameters) : null);
  const summary = el('summary', {}, el('code', { class: 'method' }, method.toUpperCase()), el('code', { class: 'path' }, path), el('span', { class: 'soft' }, spec.summary ?? ''));
  return el('details', { class: 'card', 'data-operation': `${method} ${path}` }, summary, inside);
}

/** Fields for a GET, and the button that sends it. */
function trial(path, parameters) {
  const fields = parameters.filter((one) => one.in !== 'header').map((one) => {
    const example = resolve(one.schema)?.examples?.[0];
    return { one, input: el('input', { name: one.name, placeholder: example ?? '', ...(one.required && { value: example ?? '' }) }) };
  });
  const shown = el('pre', { hidden: '' });
  const send = el('button', { type: 'button' }, 'Try it');
  send.addEventListener('click', async () => {
    let url = path;
    const query = new URLSearchParams();
    for (const { one, input } of fields) {
      if (one.in === 'path') url = url.replace(`{${one.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(one.name, input.value);
    }
    if (query.size) url += `?${query}`;
    const token = document.getElementById('token').value.trim();
    shown.hidden = false;
    try {
      const answer = await fetch(below(url), { headers: token ? { authorization: `Bearer ${token}` } : {} });
      const text = await answer.text();
      let nice = text;
      try { nice = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON */ }
      shown.textContent = `GET ${url}\n${answer.status} ${answer.statusText}\n\n${nice.slice(0, 100000)}`;
    } catch (why) {
      shown.textContent = `GET ${url}\n${why.message}`;
    }
  });
  return el('section', {}, el('div', { class: 'try' }, ...fields.map(({ one, input }) => el('label', {}, el('code', {}, one.name), input)), send), shown);
}

function schemaCard(name, schema) {
  const pairs = Object.entries(schema.properties ?? {}).map(([key, value]) => [
    key, schema.required?.includes(key) ? '' : 'optional: ', words(value), value.description ? el('div', { class: 'soft' }, prose(value.description)) : null,
  ]);
  const inside = el('div', {},
    ...(schema.description ? paragraphs(schema.description) : []),
    pairs.length ? section('Fields', pairs) : el('p', {}, ...(schema.oneOf ?? [schema]).map((one) => el('div', {}, words(one)))));
  return el('details', { class: 'card', id: `schema-${name}` }, el('summary', {}, el('code', {}, name)), inside);
}

/** Opens the card that the URL names. */
function follow() {
  const card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (card?.matches('details')) { card.open = true; card.scrollIntoView(); }
}

async function show() {
  const main = document.getElementById('main');
  const answer = await fetch(below('/openapi.json'));
  if (!answer.ok) throw new Error(`/openapi.json: ${answer.status}`);
  api = await answer.json();
  document.getElementById('title').textContent = `${api.info.title} ${api.info.version}`;
  document.getElementById('about').append(...paragraphs(api.info.description));
  const groups = api.tags.map((tag) => {
    const some = Object.entries(api.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]?.tags?.includes(tag.name)).map((method) => operation(path, method, item[method])));
    return el('section', {}, el('h2', {}, tag.description ?? tag.name), ...some);
  });
  const schemas = Object.entries(api.components.schemas).map(([name, schema]) => schemaCard(name, schema));
  main.replaceChildren(...groups, el('section', {}, el('h2', {}, 'Schemas'), ...schemas));
  addEventListener('hashchange', follow);
  follow();
}

show().catch((why) => { document.getElementById('state').textContent = `Cannot load the API description: ${why.message}`; });
