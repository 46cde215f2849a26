import { order as orderState, statusName } from '../audit/states.ts';
import { type LifeEvent, money, type OrderLine, timeOf } from './life-event.ts';

/** What `prune` writes beside the columns of an archived order; times are DATETIME(3) texts in UTC. */
interface Body {
  readonly requestId: string | null;
  readonly createTime: string;
  readonly items: readonly OrderLine[];
  readonly history: readonly {
    readonly version: number;
    readonly from: string;
    readonly to: string;
    readonly closeReason: string | null;
    readonly time: string;
  }[];
}

/** The life that went into the archive with its order, and when it went. */
export function archivedLife(row: Record<string, unknown>): LifeEvent[] {
  const { requestId, createTime, history } = bodyOf(row);
  const isFence = Number(row.status) === orderState.aborted;
  const total = money(row.total_minor, row.currency);
  const begin = isFence
    ? 'fenced (ABORTED): this id was given up and can never become an order'
    : `created for user ${row.user_id}, request "${requestId}", total ${total}`;
  const state = `${statusName(Number(row.status))}, version ${row.version}`;
  return [
    { time: isoTime(createTime), store: 'order', what: begin },
    ...history.map(({ version, from, to, closeReason, time }) => ({
      time: isoTime(time),
      store: 'order',
      what: `${from} → ${to}${closeReason ? ` (${closeReason})` : ''}, version ${version}`,
    })),
    { time: timeOf(row.archive_time), store: 'archive', what: `moved to the archive as ${state}` },
  ];
}

/** The lines that went into the archive with their order. */
export function archivedLines(row: Record<string, unknown>): readonly OrderLine[] {
  return bodyOf(row).items;
}

function bodyOf({ body }: Record<string, unknown>): Body {
  return JSON.parse(String(body)) as Body;
}

function isoTime(text: string): string {
  return `${text.replace(' ', 'T')}Z`;
}
