// Writes keybeat.js and the licences into this folder, as `npm pack` needs them. keybeat.js is the file that the daemon
// serves: src/web/console/mod.rs joins the same parts in the same way.
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';

const root = new URL('../../', import.meta.url);
const part = (name) => readFileSync(new URL(`src/web/console/client/${name}`, root), 'utf8');

writeFileSync(new URL('keybeat.js', import.meta.url), `${part('keybeat.js')}\n${part('watches.js')}`);
for (const licence of ['LICENSE-MIT', 'LICENSE-APACHE']) copyFileSync(new URL(licence, root), new URL(licence, import.meta.url));
