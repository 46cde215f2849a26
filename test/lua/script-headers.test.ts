import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { type GateScript, gateScripts } from '../../services/stock/gate-scripts.ts';

const luaDir = new URL('../../lua/', import.meta.url);

function read(name: string): string[] {
  return readFileSync(new URL(`${name}.lua`, luaDir), 'utf8').split('\n');
}

/** Names from lines such as `-- KEYS[2] meta   hash: …`, in their order. */
function declared(lines: readonly string[], table: 'KEYS' | 'ARGV'): string[] {
  const names: string[] = [];
  for (const line of lines) {
    const match = new RegExp(`^-- ${table}\\[(\\d+)\\] (\\w+)\\s`).exec(line);
    if (!match) continue;
    assert.equal(Number(match[1]), names.length + 1, `${table} are numbered in order: ${line}`);
    names.push(match[2] as string);
  }
  return names;
}

function numbered(lines: readonly string[], word: 'returns' | 'answer'): Record<string, number> {
  const found: Record<string, number> = {};
  for (const line of lines) {
    const match = new RegExp(`^-- ${word} \\{?(\\d+)[^A-Z]*?([A-Z_]{2,})\\b`).exec(line);
    if (match) found[match[2] as string] = Number(match[1]);
  }
  return found;
}

test('every script has an entry in the wrapper, and every entry a script', () => {
  const files = readdirSync(luaDir).map((file) => file.replace(/\.lua$/, ''));
  assert.deepEqual(files.sort(), Object.keys(gateScripts).sort());
});

for (const [name, script] of Object.entries<GateScript>(gateScripts)) {
  test(`the header of ${name} says what the wrapper passes and expects`, () => {
    const lines = read(name);
    assert.deepEqual(declared(lines, 'KEYS'), [...script.keys]);
    assert.deepEqual(declared(lines, 'ARGV'), [...script.args]);
    assert.deepEqual(numbered(lines, 'returns'), { ...script.returns });
    assert.deepEqual(numbered(lines, 'answer'), { ...script.answers });
  });

  test(`the first lines of ${name} name its keys and arguments in the same order`, () => {
    const code = read(name).filter((line) => line !== '' && !line.startsWith('--'));
    for (const [table, names] of [
      ['KEYS', script.keys],
      ['ARGV', script.args],
    ] as const) {
      for (const line of code) {
        const match = new RegExp(`^local ([\\w, ]+) = (.*\\b${table}\\[.*)$`).exec(line);
        if (!match) continue;
        const left = (match[1] as string).split(', ');
        const right = (match[2] as string).split(', ');
        for (const [index, value] of right.entries()) {
          const position = new RegExp(`^(?:tonumber\\()?${table}\\[(\\d+)\\]\\)?$`).exec(
            value,
          )?.[1];
          if (position !== undefined) assert.equal(left[index], names[Number(position) - 1], line);
        }
      }
    }
  });

  test(`${name} never assembles a key`, () => {
    const code = read(name).filter((line) => !line.trimStart().startsWith('--'));
    assert.doesNotMatch(code.join('\n'), /sku:|:avail|:meta|:buyers|:req:/);
  });
}
