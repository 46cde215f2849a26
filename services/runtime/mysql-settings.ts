/** What a server speaks; others (a warehouse's) count as what they say they are compatible with. */
export type ServerKind = 'mariadb' | 'mysql';

/** A setting's value: text, or a number where the server wants one. */
export type SettingValue = string | number | bigint;

/** What a pool wants of its sessions. */
export interface SessionNeeds {
  /** Transactions may only read. */
  readonly isReadOnly: boolean;
  /** Seconds that a transaction may rest between two statements before the server ends it. */
  readonly restSecondsMax: number;
  /**
   * A warehouse that merely speaks the protocol: what it does not know or refuses is passed over,
   * and nothing of it is checked.
   */
  readonly isForeign: boolean;
}

/** More than the largest statement of ours: a batch of webhooks of 1 MiB, escaped. */
const packetBytesMin = 4 * 1024 * 1024;
/** A lock on a row. Whoever waits longer is refused and may come again. */
const lockWaitSeconds = 1;
/** A lock on a table's definition, which a migration takes; the server's own default is a day. */
const definitionWaitSeconds = 10;
/** A pool looks at its idle connections every few seconds, so one that rests longer was abandoned. */
export const idleSecondsMax = 600;
/** A client that stands still in the middle of sending or taking a packet. */
const packetSecondsMin = 10;
const noLimit = 18_446_744_073_709_551_615n;

/** How many rows a statement may read and answer: all. */
export const limitsOfResults: readonly (readonly [string, SettingValue])[] = [
  ['sql_select_limit', noLimit],
  ['max_join_size', noLimit],
  ['sql_big_selects', 'ON'],
];

/**
 * What a session is set to, by the name and in the form that SHOW VARIABLES has. Names that a server
 * does not know are passed over: it has nothing to set.
 */
export function settingsOf(
  kind: ServerKind,
  { isReadOnly, restSecondsMax }: SessionNeeds,
): Map<string, SettingValue> {
  return new Map<string, SettingValue>([
    // Strict, and strings escaped as the driver escapes them: no ANSI_QUOTES, no NO_BACKSLASH_ESCAPES.
    [
      'sql_mode',
      'STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',
    ],
    ['autocommit', 'ON'],
    ['completion_type', 'NO_CHAIN'],
    ['tx_isolation', 'READ-COMMITTED'],
    ['transaction_isolation', 'READ-COMMITTED'],
    ['tx_read_only', isReadOnly ? 'ON' : 'OFF'],
    ['transaction_read_only', isReadOnly ? 'ON' : 'OFF'],
    ['innodb_snapshot_isolation', 'OFF'],
    ['time_zone', '+00:00'],
    ['character_set_client', 'utf8mb4'],
    ['character_set_results', 'utf8mb4'],
    ['collation_connection', 'utf8mb4_unicode_ci'],
    ['innodb_lock_wait_timeout', lockWaitSeconds],
    ['lock_wait_timeout', definitionWaitSeconds],
    // The server ends what a frozen or vanished process has left open.
    ['idle_transaction_timeout', restSecondsMax],
    ['idle_write_transaction_timeout', 0],
    ['idle_readonly_transaction_timeout', 0],
    ['net_read_timeout', Math.max(packetSecondsMin, restSecondsMax)],
    ['net_write_timeout', Math.max(packetSecondsMin, restSecondsMax)],
    ['wait_timeout', idleSecondsMax],
    // Deadlines are ours: a statement that ran past one is killed.
    ['max_statement_time', 0],
    ['max_execution_time', 0],
    // Promises rest on unique keys and checks.
    ['unique_checks', 'ON'],
    ['foreign_key_checks', 'ON'],
    ['check_constraint_checks', 'ON'],
    ['default_storage_engine', 'InnoDB'],
    // Results are whole and mean what they say.
    ...limitsOfResults,
    ['sql_safe_updates', 'OFF'],
    ['sql_auto_is_null', 'OFF'],
    ['sql_buffer_result', 'OFF'],
    ['group_concat_max_len', 1_048_576],
    ['div_precision_increment', 4],
    ...plannerSettings(kind),
  ]);
}

/** Lists of keys, long ones too, are ranges of an index, and a secondary index ends with the primary key. */
function plannerSettings(kind: ServerKind): [string, SettingValue][] {
  return kind === 'mariadb'
    ? [
        ['optimizer_switch', 'extended_keys=on'],
        ['eq_range_index_dive_limit', 200],
        // A list of 1,000 keys would become a join with a table of them.
        ['in_predicate_conversion_threshold', 0],
        ['optimizer_max_sel_arg_weight', 32_000],
      ]
    : [
        ['optimizer_switch', 'use_index_extensions=on'],
        ['eq_range_index_dive_limit', 200],
        // 0 is no limit. With too little memory a list of keys becomes a scan of the table.
        ['range_optimizer_max_mem_size', 0],
      ];
}

/** What only the server's administrator can change and we cannot work with, as a sentence; undefined if there is nothing. */
export function unfitSetting(
  values: ReadonlyMap<string, string>,
  { isReadOnly, isForeign }: SessionNeeds,
): string | undefined {
  if (isForeign) return undefined;
  const packetBytes = Number(values.get('max_allowed_packet'));
  if (packetBytes < packetBytesMin) {
    return `its setting max_allowed_packet is ${packetBytes} bytes; set it to ${packetBytesMin} or more, because a batch of ours may be that large.`;
  }
  if (isReadOnly) return undefined;
  if (values.get('log_bin') === 'ON' && values.get('binlog_format') === 'STATEMENT') {
    return 'its setting binlog_format is STATEMENT; set it to ROW or MIXED, because our transactions run READ COMMITTED, whose writes a log of statements cannot hold.';
  }
  if (values.get('innodb_rollback_on_timeout') === 'ON') {
    return 'its setting innodb_rollback_on_timeout is ON; start it with OFF, because a lock wait would end a whole transaction of ours and what follows would be committed by itself.';
  }
  return undefined;
}
