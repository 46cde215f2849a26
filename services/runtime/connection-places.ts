import { isIPv6 } from 'node:net';

/**
 * What a connection does: nothing was asked on it yet or something that is not whole (`unfinished`),
 * nothing is asked now (`idle`), something is under way (`busy`).
 */
export type PlaceState = 'unfinished' | 'idle' | 'busy';

/** Why a connection was not let in, or had to make room for another one. */
export type PlaceReason = 'address_full' | 'full';

export interface Place {
  /** Whose it is; see `peerOf`. */
  readonly peer: string;
  readonly state: PlaceState;
}

export interface ConnectionPlacesOptions {
  /** Connections of all peers together. */
  readonly connectionsMax: number;
  /** Connections of one peer. */
  readonly perPeerMax: number;
  /** Peers that stand for many others, such as our own proxies: they have no bound of their own. */
  readonly isTrusted?: (address: string) => boolean;
}

interface Held extends Place {
  state: PlaceState;
  readonly close: (reason: PlaceReason) => void;
  readonly peerPlaces: PeerPlaces;
  /** Whether the place was given back, or taken away. */
  left: boolean;
}

/** The oldest first, by when they came into the state. Busy ones are in neither. */
interface Evictable {
  readonly unfinished: Set<Held>;
  readonly idle: Set<Held>;
}

interface PeerPlaces extends Evictable {
  count: number;
}

/**
 * The places that connections take, bounded in all and for each peer. When there is none, whoever comes
 * gets the place of the connection that has been unfinished for longest, else of the one that has been
 * idle for longest: who dribbles bytes into many connections loses them to those who ask something. Only
 * if all are busy is the new one turned away. A peer that has taken all of its own loses its own.
 */
export class ConnectionPlaces {
  readonly #options: ConnectionPlacesOptions;
  readonly #peers = new Map<string, PeerPlaces>();
  readonly #all: Evictable = { unfinished: new Set(), idle: new Set() };
  #size = 0;

  constructor(options: ConnectionPlacesOptions) {
    this.#options = options;
  }

  /** Connections that have a place. */
  get size(): number {
    return this.#size;
  }

  /**
   * Takes a place for a connection.
   *
   * @param close closes the connection, so that another one has its place
   * @returns the place, or why there is none
   */
  take(address: string, close: (reason: PlaceReason) => void): Place | PlaceReason {
    const { connectionsMax, perPeerMax, isTrusted } = this.#options;
    const peer = peerOf(address);
    const count = this.#peers.get(peer)?.count ?? 0;
    if (count >= perPeerMax && !isTrusted?.(address)) {
      if (!this.#evict(this.#peers.get(peer), 'address_full')) return 'address_full';
    }
    if (this.#size >= connectionsMax && !this.#evict(this.#all, 'full')) return 'full';
    const peerPlaces = this.#peers.get(peer) ?? newPeer();
    this.#peers.set(peer, peerPlaces);
    peerPlaces.count += 1;
    this.#size += 1;
    const held: Held = { peer, state: 'unfinished', close, peerPlaces, left: false };
    this.#add(held);
    return held;
  }

  /** Says what a connection does now. */
  move(place: Place, state: PlaceState): void {
    const held = place as Held;
    if (held.left) return;
    this.#remove(held);
    held.state = state;
    this.#add(held);
  }

  /** Gives the place back; more than once does no harm. */
  leave(place: Place): void {
    const held = place as Held;
    if (held.left) return;
    held.left = true;
    const { peer, peerPlaces } = held;
    this.#remove(held);
    this.#size -= 1;
    peerPlaces.count -= 1;
    if (peerPlaces.count === 0) this.#peers.delete(peer);
  }

  #evict(from: Evictable | undefined, reason: PlaceReason): boolean {
    const [unfinished] = from?.unfinished ?? [];
    const [victim = unfinished] = unfinished ? [] : (from?.idle ?? []);
    if (victim === undefined) return false;
    this.leave(victim);
    victim.close(reason);
    return true;
  }

  #add(held: Held): void {
    if (held.state === 'busy') return;
    held.peerPlaces[held.state].add(held);
    this.#all[held.state].add(held);
  }

  #remove(held: Held): void {
    if (held.state === 'busy') return;
    held.peerPlaces[held.state].delete(held);
    this.#all[held.state].delete(held);
  }
}

function newPeer(): PeerPlaces {
  return { count: 0, unfinished: new Set(), idle: new Set() };
}

/**
 * Whom an address stands for. Whoever has one IPv6 address has the other 2^64 of its network too, so
 * that they count as one. IPv4 mapped into IPv6 is IPv4.
 */
export function peerOf(address: string): string {
  if (address.startsWith('::ffff:') && address.includes('.'))
    return address.slice('::ffff:'.length);
  if (!isIPv6(address)) return address;
  const [head = '', tail] = address.split('::');
  const front = head === '' ? [] : head.split(':');
  const back = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - front.length - back.length;
  const groups = [...front, ...Array<string>(Math.max(0, zeros)).fill('0'), ...back];
  return `${groups.slice(0, 4).join(':')}::/64`;
}
