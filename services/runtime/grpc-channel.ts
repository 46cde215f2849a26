import { type Channel, connectivityState, credentials } from '@grpc/grpc-js';
import { ClientError, createChannel, Status } from 'nice-grpc';
import type { Deadline } from './deadline.ts';
import { ConfigError } from './env.ts';
import { Refusal } from './refusals.ts';

/** A connection that is being made is waited for this long. */
const connectMs = 2_000;

const channelOptions = {
  'grpc.min_reconnect_backoff_ms': connectMs,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2_000,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 3_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.enable_retries': 0,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.max_receive_message_length': 4 * 1024 * 1024,
  'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
};

/** A channel to every copy of a service (`host:port` each), with connections of its own. */
export function openChannel(addresses: readonly string[]): Channel {
  return createChannel(
    targetOf(addresses),
    credentials.createInsecure(),
    channelOptions,
  ) as Channel;
}

/** Whether a connection is up; if none is, one is asked for. */
export function isConnected(channel: Channel): boolean {
  return channel.getConnectivityState(true) === connectivityState.READY;
}

/** Nothing was sent, for lack of a connection: the only failure that surely had no effect. */
export class NeverSent extends Refusal {}

/**
 * Waits for a connection, 2 s at most and no longer than the deadline.
 *
 * @throws NeverSent if there is none in time, or the last attempt has just failed
 */
export async function waitUntilConnected(channel: Channel, deadline: Deadline): Promise<void> {
  const until = new Date(Date.now() + Math.max(0, Math.min(connectMs, deadline.leftMs())));
  for (;;) {
    const state = channel.getConnectivityState(true);
    if (state === connectivityState.READY) return;
    if (state === connectivityState.TRANSIENT_FAILURE || state === connectivityState.SHUTDOWN) {
      throw new NeverSent('DEPENDENCY_DOWN', `No connection to ${channel.getTarget()}`);
    }
    try {
      await new Promise<void>((resolve, reject) => {
        channel.watchConnectivityState(state, until, (error) =>
          error ? reject(error) : resolve(),
        );
      });
    } catch (cause) {
      const message = `No connection to ${channel.getTarget()} in time`;
      throw new NeverSent('DEPENDENCY_DOWN', message, { cause });
    }
  }
}

/** Whether a call failed because the connection was lost or never made. */
export function isConnectionLoss(error: unknown): boolean {
  if (error instanceof NeverSent) return true;
  const cause = error instanceof Refusal ? error.cause : error;
  return cause instanceof ClientError && cause.code === Status.UNAVAILABLE;
}

/** A list of names cannot be one target of grpc-js. @throws ConfigError */
function targetOf(addresses: readonly string[]): string {
  const isIpv4 = (address: string): boolean => /^\d+\.\d+\.\d+\.\d+:\d+$/.test(address);
  if (addresses.every(isIpv4)) return `ipv4:${addresses.join(',')}`;
  if (addresses.length === 1) return addresses[0] as string;
  const rule = 'several addresses must be IPv4 addresses with ports';
  throw new ConfigError([`${addresses.join(',')}: ${rule}`]);
}
