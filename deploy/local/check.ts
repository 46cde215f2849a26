import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { databaseKinds } from '../../db/databases.ts';
import { schemaDrift } from '../../db/schema-drift.ts';
import { differingTables, takeSchemaSnapshot } from '../../db/snapshot.ts';
import { acceptedContract, schemaFile } from './checked-files.ts';
import { Failure } from './failure.ts';
import { staleGeneratedFiles } from './generated-code.ts';
import { installMissingPackages } from './install-packages.ts';
import { repositoryDir } from './places.ts';
import { runTool, type ToolResult } from './tool.ts';

const help = `npm run check   format, lint, types, contracts, generated code, schema, lock file; all of them, even if one fails

"node_modules/.bin/biome check --write ." mends the format, "npm run gen" what is generated.
`;

type Check = { name: string; run: () => Promise<ToolResult> };

const checks: Check[] = [
  { name: 'format and lint (biome)', run: () => runTool('biome', ['ci', '--colors=off', '.']) },
  { name: 'types (tsc)', run: () => runTool('tsc', ['--noEmit', '-p', '.']) },
  { name: 'protos: lint (buf)', run: () => runTool('buf', ['lint']) },
  {
    name: 'protos: format (buf)',
    run: () => runTool('buf', ['format', '--diff', '--exit-code']),
  },
  {
    name: 'protos: no breaking change since the accepted contract (buf)',
    run: () => runTool('buf', ['breaking', '--against', acceptedContract]),
  },
  { name: 'gen/ is what the protos lead to', run: checkGeneratedCode },
  { name: 'the schema is what the migrations lead to', run: checkSchema },
  { name: 'package-lock.json is complete and names no registry', run: checkLockFile },
];

/** Runs every check, says how each went, and answers whether all are fine. */
async function runChecks(): Promise<boolean> {
  let failed = 0;
  for (const { name, run } of checks) {
    const start = performance.now();
    const { isOk, output } = await run().catch(failedBy);
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    process.stdout.write(`${isOk ? 'ok    ' : 'FAILED'}  ${name} (${seconds} s)\n`);
    if (isOk) continue;
    failed += 1;
    process.stdout.write(`${output.replaceAll(/^/gm, '          ')}\n`);
  }
  process.stdout.write(failed === 0 ? '\nAll checks passed.\n' : `\n${failed} checks failed.\n`);
  return failed === 0;
}

function failedBy(error: unknown): ToolResult {
  const details = error instanceof Failure ? [error.message, ...error.details].join('\n') : '';
  return { isOk: false, output: details || String((error as Error).message ?? error) };
}

async function checkGeneratedCode(): Promise<ToolResult> {
  const stale = await staleGeneratedFiles();
  if (stale.length === 0) return { isOk: true, output: '' };
  return {
    isOk: false,
    output: `These differ from what the protos lead to; run "npm run gen":\n${stale.map((path) => `  gen/${path}`).join('\n')}`,
  };
}

async function checkSchema(): Promise<ToolResult> {
  await installMissingPackages({
    wanted: { redis: false, database: true, kafka: false },
    logsDir: join(repositoryDir, '.sluice/logs'),
    say: (line) => process.stdout.write(`        ${line}\n`),
  });
  const snapshot = await takeSchemaSnapshot();
  if (snapshot === undefined) {
    process.stdout.write(
      '        not compared: the schema is read from MariaDB, and this is MySQL\n',
    );
    return { isOk: true, output: '' };
  }
  const committed = await readFile(join(repositoryDir, schemaFile), 'utf8').catch(() => '');
  const problems = differingTables(committed, snapshot.sql).map(
    (table) => `${table}: ${schemaFile} is not what the migrations make; run "npm run gen"`,
  );
  for (const kind of databaseKinds) {
    const schema = (await import(`../../db/${kind}/schema.ts`)) as Record<string, unknown>;
    problems.push(...schemaDrift(kind, schema, snapshot.columns));
  }
  return { isOk: problems.length === 0, output: problems.join('\n') };
}

/** npm leaves platforms out of the lock file which the registry at hand does not serve; `npm ci` then refuses it everywhere. */
async function checkLockFile(): Promise<ToolResult> {
  const text = await readFile(join(repositoryDir, 'package-lock.json'), 'utf8');
  const { packages } = JSON.parse(text) as {
    packages: Record<string, { resolved?: string; optionalDependencies?: object }>;
  };
  const problems: string[] = [];
  for (const [path, { resolved, optionalDependencies = {} }] of Object.entries(packages)) {
    if (resolved !== undefined) problems.push(`${path} has the download address ${resolved}`);
    for (const name of Object.keys(optionalDependencies)) {
      const isLocked =
        `node_modules/${name}` in packages || `${path}/node_modules/${name}` in packages;
      if (!isLocked) problems.push(`${name}, which ${path || 'package.json'} names, is not in it`);
    }
  }
  return { isOk: problems.length === 0, output: problems.slice(0, 10).join('\n') };
}

if (process.argv.includes('--help') || process.argv.includes('-h')) process.stdout.write(help);
else process.exitCode = (await runChecks()) ? 0 : 1;
