import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { Failure } from './failure.ts';
import { identityOf, type ProcessIdentity } from './process-identity.ts';

/**
 * Free ports are taken from below the range (32768 and up on Linux) that outgoing connections get theirs from:
 * a server that a test kills and starts again on its port must find it free.
 */
const freePortMin = 20_000;
const freePortMax = 31_999;
const freePortTriesMax = 200;
const tcpStateListen = '0A';
/** Given out by this process: a port is free until its server listens, and two servers must not be promised the same. */
const givenPorts = new Set<number>();

/** A port, and with `count` the ones after it, on which nothing listens now. No port is given twice. */
export async function freePort(count = 1, host = '127.0.0.1'): Promise<number> {
  for (let i = 0; i < freePortTriesMax; i += 1) {
    const port = freePortMin + Math.floor(Math.random() * (freePortMax - freePortMin - count));
    const ports = Array.from({ length: count }, (_, offset) => port + offset);
    const free = await Promise.all(ports.map((each) => isPortFree(each, host)));
    // Asked last, with nothing to wait for in between: others may be looking for a port as well.
    if (!free.every(Boolean) || ports.some((each) => givenPorts.has(each))) continue;
    for (const each of ports) givenPorts.add(each);
    return port;
  }
  throw new Failure(`No free port was found between ${freePortMin} and ${freePortMax}.`);
}

/** Whether a server could listen there. Errors other than "in use" (no such address, no permission) are thrown. */
export async function isPortFree(port: number, host = '127.0.0.1'): Promise<boolean> {
  return await new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false);
      else reject(error);
    });
    server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** Whether something accepts connections there. */
export async function isPortOpen(
  port: number,
  host = '127.0.0.1',
  timeoutMs = 1_000,
): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect({ port, host });
    const finish = (open: boolean): void => {
      socket.destroy();
      resolve(open);
    };
    socket.setTimeout(timeoutMs, () => finish(false));
    socket.once('connect', () => finish(true));
    socket.once('error', () => finish(false));
  });
}

export type PortUse = {
  port: number;
  host?: string;
  /** Who wants it, for the sentence: "edge". */
  name: string;
  /** What to set to choose another: "SLUICE_EDGE_PORT". */
  variable: string;
};

/** Throws a Failure naming the port, who wants it, the variable and, where it can be told, the program that has it. */
export async function requireFreePort({ port, host, name, variable }: PortUse): Promise<void> {
  if (await isPortFree(port, host)) return;
  const owner = portOwner(port);
  const who =
    owner === undefined
      ? 'another program'
      : `${programName(owner.commandLine)} (pid ${owner.pid})`;
  throw new Failure(
    `Port ${port}, wanted by ${name}, is in use by ${who}: stop that, or choose another port with ${variable}.`,
  );
}

/** The process that listens on a port; undefined where that cannot be told (not Linux, or another user's). */
export function portOwner(port: number): ProcessIdentity | undefined {
  const inodes = listeningInodes(port);
  if (inodes.size === 0) return undefined;
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      for (const descriptor of readdirSync(`/proc/${entry}/fd`)) {
        const inode = /^socket:\[(\d+)\]$/.exec(
          readlinkSync(`/proc/${entry}/fd/${descriptor}`),
        )?.[1];
        if (inode !== undefined && inodes.has(inode)) return identityOf(Number(entry));
      }
    } catch {
      // It ended while we looked, or belongs to somebody else.
    }
  }
  return undefined;
}

function listeningInodes(port: number): Set<string> {
  const inodes = new Set<string>();
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  for (const table of ['/proc/net/tcp', '/proc/net/tcp6']) {
    let text: string;
    try {
      text = readFileSync(table, 'utf8');
    } catch {
      continue;
    }
    for (const line of text.split('\n').slice(1)) {
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
      if (state === tcpStateListen && local?.endsWith(wanted) && inode !== undefined)
        inodes.add(inode);
    }
  }
  return inodes;
}

/** "/usr/bin/python3 -m http.server" → "python3 -m http.server", shortened to what fits a sentence. */
function programName(commandLine: string): string {
  const [program = '', ...args] = commandLine.split(' ');
  const text = [program.split('/').at(-1), ...args].join(' ');
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}
