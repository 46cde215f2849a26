import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { takeSchemaSnapshot } from '../../db/snapshot.ts';
import { acceptedContract, schemaFile } from './checked-files.ts';
import { printFailure } from './failure.ts';
import { readFlags } from './flags.ts';
import { regenerate } from './generated-code.ts';
import { repositoryDir } from './places.ts';
import { createTerminal } from './terminal.ts';
import { requireTool } from './tool.ts';

const help = `npm run gen [-- --accept-contract]   writes everything that is generated and committed

  gen/            code and descriptor image, from proto/
  db/schema.sql   what the migrations lead to, read back from a throw-away MariaDB

  --accept-contract   also replaces proto/accepted.binpb, the contract that "npm run check" compares proto/ with. Only
                      for a change that old callers survive, or that all of them have agreed to.
`;

async function main(): Promise<void> {
  const flags = readFlags(
    { 'accept-contract': { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
    help,
  );
  if (flags.help) {
    process.stdout.write(help);
    return;
  }
  const terminal = createTerminal();
  await terminal.step('gen/', regenerate);
  await terminal.step(schemaFile, async (say) => {
    const snapshot = await takeSchemaSnapshot();
    if (snapshot === undefined) say('left as it is: it is read from MariaDB, and this is MySQL');
    else await writeFile(join(repositoryDir, schemaFile), snapshot.sql);
  });
  if (flags['accept-contract']) {
    await terminal.step(acceptedContract, () =>
      requireTool('buf', ['build', '-o', acceptedContract]),
    );
  }
}

try {
  await main();
} catch (error) {
  printFailure(error);
  process.exitCode = 1;
}
