import type { GrpcGuard, GrpcGuardOptions } from './grpc-guard.ts';
import type { Metrics } from './metrics.ts';

/**
 * Counts what guards hold and what they refuse.
 *
 * @param guards filled later, when the server listens
 */
export function guardMetrics(
  metrics: Metrics | undefined,
  guards: readonly GrpcGuard[],
): Pick<GrpcGuardOptions, 'onClosed' | 'onGoodbye'> {
  if (metrics === undefined) return {};
  const closed = metrics.counter(
    'grpc_closed_total',
    'Connections and streams that were refused or closed before their time, by reason',
    ['what', 'reason'],
  );
  const goodbyes = metrics.counter(
    'grpc_goodbyes_total',
    'Connections whose peer was told to go elsewhere, because of their age or of a stop',
    ['reason'],
  );
  const sum = (count: (guard: GrpcGuard) => number): number =>
    guards.reduce((total, guard) => total + count(guard), 0);
  const connections = metrics.gauge('grpc_connections', 'Connections that are open');
  Object.assign(connections, {
    collect: () => connections.set(sum((guard) => guard.connections)),
  });
  const streams = metrics.gauge('grpc_streams', 'Calls and streams that are open');
  Object.assign(streams, { collect: () => streams.set(sum((guard) => guard.streams)) });
  return {
    onClosed: (what, reason) => closed.inc({ what, reason }),
    onGoodbye: (reason) => goodbyes.inc({ reason }),
  };
}
