/** The search by name. It ignores case and accents. With `*`, `?` or `[abc]` the whole name has to match, as in Redis. */

/** Letters that Unicode does not take apart into a letter and an accent. */
const APART = { ø: 'o', ł: 'l', đ: 'd', ð: 'd', þ: 'th', ß: 'ss', æ: 'ae', œ: 'oe', ı: 'i' };

export const fold = (text) => text.normalize('NFKD').replace(/[\u0300-\u036f]/g, '').toLowerCase().replace(/[øłđðþßæœı]/g, (letter) => APART[letter]);

/** A function that checks folded names, or null if everything matches. */
export function search(text) {
  const needle = fold(text.trim());
  if (!needle) return null;
  if (!/[*?[\\]/.test(needle)) return (name) => name.includes(needle);
  const parts = parse([...needle]);
  return (name) => matches(parts, [...name]);
}

const ANY_TEXT = null;

/** The pattern as a list: a check of one character, or any text. */
function parse(chars) {
  const parts = [];
  for (let at = 0; at < chars.length; at++) {
    const end = chars[at] === '[' ? chars.indexOf(']', at + 1) : -1;
    if (end > at) {
      parts.push(oneOf(chars.slice(at + 1, end)));
      at = end;
    } else if (chars[at] === '*') {
      if (!parts.length || parts.at(-1) !== ANY_TEXT) parts.push(ANY_TEXT);
    } else if (chars[at] === '?') parts.push(() => true);
    else {
      if (chars[at] === '\\' && at + 1 < chars.length) at += 1;
      const literal = chars[at];
      parts.push((char) => char === literal);
    }
  }
  return parts;
}

/** `abc`, `a-z` or `^abc` of a bracket. */
function oneOf(inside) {
  const negated = inside[0] === '^', ranges = [];
  for (let at = negated ? 1 : 0; at < inside.length; at++) {
    const isRange = inside[at + 1] === '-' && at + 2 < inside.length;
    ranges.push([inside[at], inside[isRange ? at + 2 : at]]);
    if (isRange) at += 2;
  }
  return (char) => ranges.some(([low, high]) => char >= low && char <= high) !== negated;
}

/** Goes back to the last `*` only, so a long pattern costs no more than name times pattern. */
function matches(parts, chars) {
  let at = 0, part = 0, star = -1, from = 0;
  while (at < chars.length) {
    if (part < parts.length && parts[part] !== ANY_TEXT && parts[part](chars[at])) [at, part] = [at + 1, part + 1];
    else if (part < parts.length && parts[part] === ANY_TEXT) [star, part, from] = [part, part + 1, at];
    else if (star >= 0) [part, at] = [star + 1, from += 1];
    else return false;
  }
  while (part < parts.length && parts[part] === ANY_TEXT) part += 1;
  return part === parts.length;
}
