import { isUtf8 } from 'node:buffer';
import { invalidRequest, type Refusal } from '../runtime/refusals.ts';

/**
 * Parses a request body as JSON.
 *
 * @throws Refusal INVALID_REQUEST that names the line and column of the first character that is wrong
 */
export function parseJson(body: Buffer): unknown {
  if (!isUtf8(body)) throw malformed('is not valid UTF-8');
  const text = body.toString('utf8');
  try {
    return JSON.parse(text);
  } catch {
    const offset = syntaxErrorOffset(text);
    const before = text.slice(0, offset);
    const line = before.split('\n').length;
    const column = offset - before.lastIndexOf('\n');
    const found = offset < text.length ? 'an unexpected character' : 'an unexpected end';
    throw malformed(`is not valid JSON: ${found} at line ${line}, column ${column}`);
  }
}

function malformed(description: string): Refusal {
  return invalidRequest([{ field: 'body', description }]);
}

const space = /[ \t\n\r]*/y;
const string = /"(?:[ !#-[\]-\uffff]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const scalar = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

/**
 * Where the JSON text breaks the grammar, as an offset. JSON.parse tells it only in some of its
 * messages, so it is found here, and only after JSON.parse has refused the text. Not recursive: a
 * body of nothing but brackets must not exhaust the stack.
 */
export function syntaxErrorOffset(text: string): number {
  const open: ('{' | '[')[] = [];
  let expecting: 'value' | 'first-value' | 'key' | 'first-key' | 'separator' = 'value';
  let offset = 0;
  for (;;) {
    offset = match(space, text, offset);
    const character = text[offset];
    if (character === undefined) return offset;
    const container = open.at(-1);
    if (expecting === 'separator') {
      if (container === undefined) return offset;
      if (character === (container === '{' ? '}' : ']')) open.pop();
      else if (character === ',') expecting = container === '{' ? 'key' : 'value';
      else return offset;
      offset += 1;
    } else if (expecting === 'key' || expecting === 'first-key') {
      if (character === '}' && expecting === 'first-key') {
        open.pop();
        expecting = 'separator';
        offset += 1;
        continue;
      }
      const end = match(string, text, offset);
      if (end === offset) return offset;
      offset = match(space, text, end);
      if (text[offset] !== ':') return offset;
      offset += 1;
      expecting = 'value';
    } else if (character === '{' || character === '[') {
      open.push(character);
      expecting = character === '{' ? 'first-key' : 'first-value';
      offset += 1;
    } else if (character === ']' && expecting === 'first-value') {
      open.pop();
      expecting = 'separator';
      offset += 1;
    } else {
      const end = match(character === '"' ? string : scalar, text, offset);
      if (end === offset) return offset;
      offset = end;
      expecting = 'separator';
    }
  }
}

/** The offset behind what the pattern matches at the offset; the offset itself if it does not. */
function match(pattern: RegExp, text: string, offset: number): number {
  pattern.lastIndex = offset;
  return pattern.test(text) ? pattern.lastIndex : offset;
}
