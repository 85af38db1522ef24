// Reveals and marks everything, then lists what of it has too little contrast (WCAG 2.2, 1.4.3 and 1.4.11).
const numbers = (text) => text.match(/[\d.]+/g).map(Number);
const over = ([r, g, b, a = 1], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
const light = (colour) => colour.map((part) => part / 255)
  .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
const ratio = (one, other) => {
  const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
};
const behind = (element) => element ? over(numbers(getComputedStyle(element).backgroundColor), behind(element.parentElement)) : [255, 255, 255];
const opacity = (element) => element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
const bad = [];
let seen = 0;
function check(element, what, colour, ground, least) {
  const [r, g, b, a = 1] = numbers(colour), found = ratio(over([r, g, b, a * opacity(element)], ground), ground);
  seen += 1;
  if (found < least) bad.push(`${what} of ${element.tagName}#${element.id}.${element.getAttribute('class') ?? ''} in ${document.body.className}: ${found.toFixed(2)}`);
}
function checkAll() {
  for (const element of document.querySelectorAll('body *')) {
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element), ground = behind(element);
    const worded = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (worded) check(element, 'text', style.color, ground, 4.5);
    if (element.placeholder) check(element, 'placeholder', getComputedStyle(element, '::placeholder').color, ground, 4.5);
    if (element.matches('button:not(#columns button), input:not([type=radio]), select, .choice')) check(element, 'edge', style.borderTopColor, behind(element.parentElement), 3);
    if (element.matches('.dot')) check(element, 'dot', getComputedStyle(element, '::before').color, ground, 3);
    if (element.matches('.drawing .line')) check(element, 'line', style.stroke, ground, 3);
    if (element.matches('#pill svg')) check(element, 'shape', style.fill, ground, 3);
  }
}
const reveal = (which) => document.querySelectorAll(which).forEach((hidden) => { hidden.hidden = false; });
// A hint stands in the place of the users.
reveal('body [hidden]:not(.hint, .hint *)');
document.getElementById('confirm').show();
document.getElementById('help').showPopover();
const users = document.querySelectorAll('#users .user'), pill = document.getElementById('pill');
['new', 'left fades', 'opened'].forEach((marks, i) => users[i].classList.add(...marks.split(' ')));
const inSight = users[1].getClientRects().length > 0;
for (const shape of ['live', 'connecting', 'waiting', 'down', 'stopped']) {
  pill.dataset.shape = shape;
  document.body.classList.toggle('stale', shape !== 'live');
  checkAll();
}
reveal('body [hidden]');
checkAll();
return { bad, enough: inSight && seen > 200 };
