import { connect, createServer, type Socket } from 'node:net';

/** Stands between a client and a server, and does to their connections what networks do. */
export interface TcpProxy {
  /** It listens on 127.0.0.1. */
  readonly port: number;
  /** Connections that are open now. */
  open(): number;
  /** How many there ever were. */
  opened(): number;
  /** From now on those that are open swallow every byte, both ways, and stay open; new ones work. */
  silence(): void;
  /** From now on new ones swallow every byte as well, as a network that is gone does. */
  silenceNewOnes(isSilent: boolean): void;
  /** Breaks those that are open. */
  cut(): void;
  /** Where new connections go from now on, for a failover. */
  target(port: number): void;
  stop(): Promise<void>;
}

export interface TcpProxyOptions {
  /** Changes what a client sends; what it answers goes to the server instead. Undefined breaks the connection. */
  readonly onClientData?: (data: Buffer) => Buffer | undefined;
  /** The same for what the server answers. */
  readonly onServerData?: (data: Buffer) => Buffer | undefined;
}

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
  isSilent: boolean;
}

/** Starts a proxy in front of a server on 127.0.0.1. */
export async function startTcpProxy(
  targetPort: number,
  { onClientData = same, onServerData = same }: TcpProxyOptions = {},
): Promise<TcpProxy> {
  const pairs = new Set<Pair>();
  let isSilent = false;
  let port = targetPort;
  let opened = 0;
  const listener = createServer((client) => {
    opened += 1;
    const server = connect(port, '127.0.0.1');
    const pair = { client, server, isSilent };
    pairs.add(pair);
    const end = (): void => {
      pairs.delete(pair);
      client.destroy();
      server.destroy();
    };
    const forward = (
      from: Socket,
      to: Socket,
      change: (data: Buffer) => Buffer | undefined,
    ): void => {
      from.on('data', (data: Buffer) => {
        if (pair.isSilent) return;
        const changed = change(data);
        if (changed === undefined) end();
        else to.write(changed);
      });
      // A connection that swallows everything swallows its end too.
      from.on('close', () => {
        if (!pair.isSilent) end();
      });
      from.on('error', () => undefined);
    };
    forward(client, server, onClientData);
    forward(server, client, onServerData);
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const cut = (): void => {
    for (const { client, server } of pairs) {
      client.destroy();
      server.destroy();
    }
    pairs.clear();
  };
  return {
    port: (listener.address() as { port: number }).port,
    open: () => pairs.size,
    opened: () => opened,
    silence() {
      for (const pair of pairs) pair.isSilent = true;
    },
    silenceNewOnes(silent) {
      isSilent = silent;
    },
    cut,
    target(newPort) {
      port = newPort;
    },
    async stop() {
      cut();
      await new Promise((resolve) => listener.close(resolve));
    },
  };
}

const same = (data: Buffer): Buffer => data;
