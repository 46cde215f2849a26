/** What one gRPC server bears. Each bound is far above what our own processes need, and far below what hurts. */
export interface GrpcLimits {
  /** Connections in all: a process of ours keeps up to a dozen to each copy. */
  readonly connectionsMax: number;
  /** Connections of one address. */
  readonly connectionsPerPeerMax: number;
  /** Streams open at once on one connection; clients of ours open a second connection before. */
  readonly streamsPerConnectionMax: number;
  /** Streams of one address: an edge watches 5,000 orders beside its calls. */
  readonly streamsPerPeerMax: number;
  /** Streams in all, of some kilobytes each while nothing is sent on them. */
  readonly streamsMax: number;
  /** Streams of a service that is not ours, such as reflection, on one connection and in all. */
  readonly sideStreams: Readonly<Record<SideService, SideLimit>>;
  /** Milliseconds that a request may take to arrive whole. */
  readonly requestMs: number;
  /** Milliseconds without any progress after which an answer is not taken any more. */
  readonly takenMs: number;
  /** Bytes that wait for one peer to take them, or have come of requests that are not whole. */
  readonly bytesPerConnectionMax: number;
  /** The same of all peers together. */
  readonly bytesMax: number;
  /** Milliseconds after which a connection is renewed, so that new copies get their share. */
  readonly ageMaxMs: number;
}

/** Services that everybody may ask, for which nothing of ours is worth holding much. */
export type SideService = 'reflection' | 'health';

interface SideLimit {
  readonly perConnectionMax: number;
  readonly max: number;
}

export const grpcLimits: GrpcLimits = {
  connectionsMax: 2_000,
  connectionsPerPeerMax: 500,
  streamsPerConnectionMax: 2_000,
  streamsPerPeerMax: 16_000,
  streamsMax: 32_000,
  sideStreams: {
    // A reflection answer has some dozens of kilobytes, and a person asks for a few.
    reflection: { perConnectionMax: 4, max: 64 },
    // Each client of a kind that follows health watches once on a connection.
    health: { perConnectionMax: 16, max: 2_000 },
  },
  requestMs: 4_000,
  takenMs: 4_000,
  bytesPerConnectionMax: 16 * 1_024 * 1_024,
  bytesMax: 128 * 1_024 * 1_024,
  ageMaxMs: 300_000,
};

/** The service that a path such as `/grpc.health.v1.Health/Watch` belongs to, if it is not ours. */
export function sideServiceOf(path: string): SideService | undefined {
  if (path.startsWith('/grpc.reflection.')) return 'reflection';
  if (path.startsWith('/grpc.health.')) return 'health';
  return undefined;
}
