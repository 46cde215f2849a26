import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';

const repository = join(import.meta.dirname, '../..');

interface Source {
  /** Path from the repository, with slashes. */
  readonly path: string;
  readonly text: string;
  /** What it imports: packages by name, own files by path from the repository. */
  readonly imports: readonly string[];
}

const sources: readonly Source[] = readdirSync(join(repository, 'services'), {
  recursive: true,
  encoding: 'utf8',
})
  .filter((file) => file.endsWith('.ts'))
  .map((file) => {
    const path = join('services', file);
    const text = readFileSync(join(repository, path), 'utf8');
    return { path, text, imports: importsOf(path, text) };
  });

function importsOf(path: string, text: string): string[] {
  const found = text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g);
  return [...found].map(([, name = '']) =>
    name.startsWith('.') ? relative(repository, join(repository, dirname(path), name)) : name,
  );
}

function serviceOf(path: string): string {
  return path.split('/')[1] ?? '';
}

/** Paths of sources that break a rule; the test names them. */
function offenders(rule: (source: Source) => boolean): string[] {
  return sources.filter((source) => !rule(source)).map(({ path }) => path);
}

test('the sources are found', () => {
  assert(sources.length > 40, `${sources.length} sources`);
  assert(sources.some(({ imports }) => imports.includes('services/runtime/refusals.ts')));
});

test('services never import each other; runtime imports no service', () => {
  const wrong = offenders(({ path, imports }) =>
    imports
      .filter((name) => name.startsWith('services/'))
      .every((name) => [serviceOf(path), 'runtime'].includes(serviceOf(name))),
  );
  assert.deepEqual(wrong, []);
});

test('services never import the schema of another service', () => {
  const wrong = offenders(({ path, imports }) =>
    imports
      .filter((name) => name.startsWith('db/'))
      .every((name) => name.split('/')[1] === serviceOf(path)),
  );
  assert.deepEqual(wrong, []);
});

test('only main.ts hands over the environment', () => {
  const wrong = offenders(
    ({ path, text }) =>
      path.endsWith('/main.ts') || !/process\.env\b(?!`)/.test(withoutComments(text)),
  );
  assert.deepEqual(wrong, []);
});

test('only the gate of stock runs Lua, and only one file builds its keys', () => {
  const runners = sources
    .filter(
      ({ path, imports }) =>
        path !== 'services/runtime/lua-scripts.ts' &&
        imports.includes('services/runtime/lua-scripts.ts'),
    )
    .map(({ path }) => path);
  assert(runners.length > 0);
  for (const path of runners) assert.match(path, /^services\/stock\/gate/);
  const builders = sources
    .filter(({ text }) => withoutComments(text).includes('{sku:'))
    .map(({ path }) => path);
  assert.deepEqual(builders, ['services/stock/redis-keys.ts']);
});

test('no client of a remote thing is used where only rules are', () => {
  const pure = [
    'services/order/order.ts',
    'services/order/order-id.ts',
    'services/order/order-changes.ts',
    'services/stock/decide-post.ts',
    'services/payment/payment.ts',
    'services/payment/refund.ts',
  ];
  for (const path of pure)
    assert(
      sources.some((source) => source.path === path),
      path,
    );
  const remote = /^(mysql2|ioredis|kafkajs|nice-grpc|@grpc|fastify|opossum|node:(net|http|fs))/;
  const wrong = offenders(
    ({ path, imports }) => !pure.includes(path) || !imports.some((name) => remote.test(name)),
  );
  assert.deepEqual(wrong, []);
});

test('there is no drawer for what has no name', () => {
  const drawers = /(^|\/|-)(utils?|common|types|constants|helpers?|dto|impl|misc)(\.ts|\/|-)/;
  assert.deepEqual(
    offenders(({ path }) => !drawers.test(path)),
    [],
  );
});

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
}
