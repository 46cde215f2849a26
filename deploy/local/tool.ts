import { spawn } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { Failure } from './failure.ts';
import { repositoryDir } from './places.ts';

const outputBytesMax = 64 * 1024;
const toolTimeoutMs = 5 * 60_000;

export type ToolResult = { isOk: boolean; output: string };

/** Runs a tool of node_modules/.bin in the checkout, on the pinned Node, and keeps the end of its output. */
export async function runTool(name: string, args: readonly string[]): Promise<ToolResult> {
  const binDir = join(repositoryDir, 'node_modules/.bin');
  const child = spawn(process.execPath, [join(binDir, name), ...args], {
    cwd: repositoryDir,
    env: { ...process.env, NO_COLOR: '1', PATH: `${binDir}${delimiter}${process.env.PATH ?? ''}` },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: toolTimeoutMs,
  });
  let output = '';
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString('utf8')).slice(-outputBytesMax);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  return await new Promise((resolve) => {
    child.once('error', (error) => resolve({ isOk: false, output: error.message }));
    child.once('close', (code) => resolve({ isOk: code === 0, output: output.trim() }));
  });
}

/** The same where a failure ends the work: throws a Failure with the tool's output. */
export async function requireTool(name: string, args: readonly string[]): Promise<void> {
  const { isOk, output } = await runTool(name, args);
  if (!isOk) throw new Failure(`${name} ${args[0] ?? ''} failed:`, output.split('\n'));
}
