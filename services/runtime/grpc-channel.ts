import { type Channel, credentials } from '@grpc/grpc-js';
import { ClientError, createChannel, Status } from 'nice-grpc';
import { ConfigError } from './env.ts';
import { watchSessions } from './grpc-call-fates.ts';
import { createKeepalive } from './grpc-keepalive.ts';
import { NeverSent } from './never-sent.ts';
import { Refusal } from './refusals.ts';

/** An attempt to connect is given up after so long. */
const connectMs = 2_000;
/** A connection that is not used is kept all the same: the next call must not wait for one. */
const idleMsDefault = 24 * 3_600_000;

const channelOptions = {
  'grpc.min_reconnect_backoff_ms': connectMs,
  'grpc.initial_reconnect_backoff_ms': 100,
  // A copy that is back is used a second later at most.
  'grpc.max_reconnect_backoff_ms': 1_000,
  // What is surely not done is sent again by the caller, who knows where else.
  'grpc.enable_retries': 0,
  'grpc.enable_channelz': 0,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.max_receive_message_length': 4 * 1024 * 1024,
  'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
};

/** One copy of a service, or all that are behind one DNS name. */
export interface Target {
  /** As it was configured. */
  readonly name: string;
  /** As grpc-js names it. */
  readonly target: string;
}

/**
 * What `host:port` addresses stand for: each is a copy of its own.
 *
 * @throws ConfigError if several are not all IPv4 addresses
 */
export function targetsOf(addresses: readonly string[]): readonly Target[] {
  const isIpv4 = (address: string): boolean => /^\d+\.\d+\.\d+\.\d+:\d+$/.test(address);
  if (addresses.length > 1 && !addresses.every(isIpv4)) {
    const rule = 'several addresses must be IPv4 addresses with ports';
    throw new ConfigError([`${addresses.join(',')}: ${rule}`]);
  }
  return addresses.map((name) => ({ name, target: isIpv4(name) ? `ipv4:${name}` : name }));
}

/**
 * A channel with connections of its own; behind a DNS name, one to each address of it.
 *
 * @param idleMs after how long without a call its connections are let go
 */
export function openChannel({ target }: Target, { idleMs = idleMsDefault } = {}): Channel {
  watchSessions(createKeepalive());
  const options = { ...channelOptions, 'grpc.client_idle_timeout_ms': idleMs };
  return createChannel(target, credentials.createInsecure(), options) as Channel;
}

/** Whether a call failed because the connection was lost or never made. */
export function isConnectionLoss(error: unknown): boolean {
  if (error instanceof NeverSent) return true;
  const cause = error instanceof Refusal ? error.cause : error;
  return cause instanceof ClientError && cause.code === Status.UNAVAILABLE;
}
