import { cp, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { repositoryDir } from './places.ts';
import { requireTool } from './tool.ts';

const genDir = join(repositoryDir, 'gen');

/** Writes gen/ anew: code and the descriptor image. Files of messages that are no more disappear. */
export async function regenerate(): Promise<void> {
  await withFreshCode(async (fresh) => {
    const next = `${genDir}.partial`;
    await rm(next, { recursive: true, force: true });
    await cp(fresh, next, { recursive: true });
    await rm(genDir, { recursive: true, force: true });
    await rename(next, genDir);
  });
}

/** Paths in gen/ that are not what the protos lead to; empty when gen/ is current. */
export async function staleGeneratedFiles(): Promise<string[]> {
  return await withFreshCode(async (fresh) => {
    const [wanted, committed] = [await contentsOf(fresh), await contentsOf(genDir)];
    const paths = new Set([...wanted.keys(), ...committed.keys()]);
    return [...paths].filter((path) => wanted.get(path) !== committed.get(path)).sort();
  });
}

async function withFreshCode<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-gen-'));
  try {
    await requireTool('buf', ['generate', '--output', dir]);
    const image = join(dir, 'gen/descriptors.binpb');
    await requireTool('buf', ['build', '--as-file-descriptor-set', '-o', image]);
    return await work(join(dir, 'gen'));
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Every file below the folder, as latin1 so that the image compares byte for byte. */
async function contentsOf(dir: string): Promise<Map<string, string>> {
  const contents = new Map<string, string>();
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    contents.set(path.slice(dir.length + 1), await readFile(path, 'latin1'));
  }
  return contents;
}
