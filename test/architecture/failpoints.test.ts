import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const repository = join(import.meta.dirname, '../..');

/** Every file under a folder that ends like this, as one text. */
function textOf(folder: string, ending: string): string {
  return readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith(ending))
    .map((file) => readFileSync(join(repository, folder, file), 'utf8'))
    .join('\n');
}

/** The places where a process can be told to die: those written out, and one pair for each change of an order. */
function failpointsInServices(): string[] {
  const services = textOf('services', '.ts');
  const written = services.matchAll(
    /(?:failpoints\.hit|hit)\(\s*(?:options, )?'([a-z]+\.[a-z_]+)'/g,
  );
  const changes = services.matchAll(
    /name: '(begin_payment|record_payment|record_refund|begin_refund|cancel|expire)'/g,
  );
  return [
    ...new Set([
      ...[...written].map(([, name = '']) => name),
      ...[...changes].flatMap(([, name]) => [
        `order.before_${name}_commit`,
        `order.after_${name}_commit`,
      ]),
    ]),
  ].sort();
}

test('every failpoint is a place where some test of faults kills the process', () => {
  const names = failpointsInServices();
  assert(names.length > 60, `${names.length} failpoints`);
  const faults = textOf('test/faults', '.test.ts');
  const forgotten = names.filter((name) => !faults.includes(`'${name}'`));
  assert.deepEqual(forgotten, []);
});
