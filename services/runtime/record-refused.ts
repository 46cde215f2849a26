/** Kafka will never take this message: it is too large, or not a record that the broker accepts. */
export class RecordRefused extends Error {
  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.name = 'RecordRefused';
  }
}

/**
 * What a failed send says about the messages in it. `refused`: one of them, for good; `unclear`: one of
 * them perhaps, so that smaller sends may tell; `passing`: nothing, the partition or the broker is away.
 */
export type SendFault = 'refused' | 'unclear' | 'passing';

export function faultOfSend(error: unknown): SendFault {
  // After its retries the client throws another error, with the broker's as the cause.
  const { name, cause } = error as { name?: unknown; cause?: unknown };
  const isGivenUp = name === 'KafkaJSNumberOfRetriesExceeded';
  const { type, retriable } = (isGivenUp ? cause : error) as {
    type?: unknown;
    retriable?: unknown;
  };
  if (typeof type === 'string' && refusedTypes.has(type)) return 'refused';
  if (typeof type !== 'string' || retriable !== false || topicTypes.has(type)) return 'passing';
  return 'unclear';
}

const refusedTypes = new Set([
  'CORRUPT_MESSAGE',
  'INVALID_RECORD',
  'INVALID_TIMESTAMP',
  'MESSAGE_TOO_LARGE',
  'POLICY_VIOLATION',
  'RECORD_LIST_TOO_LARGE',
  'UNSUPPORTED_FOR_MESSAGE_FORMAT',
]);

/** These are about the topic or the client, whatever is sent. */
const topicTypes = new Set([
  'CLUSTER_AUTHORIZATION_FAILED',
  'INVALID_REQUIRED_ACKS',
  'INVALID_TOPIC_EXCEPTION',
  'TOPIC_AUTHORIZATION_FAILED',
  'UNKNOWN_TOPIC_OR_PARTITION',
]);
