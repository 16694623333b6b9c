/**
 * When a failed request is sent again, and until when.
 *
 * @module
 */
import { ArgumentError, OutcomeUnknown, type KeyImportError } from "./errors.js";

const FIRST_BACKOFF_MS = 100;
const LAST_BACKOFF_MS = 2_000;
const JITTER = 0.2;
// The longest that Node's timers can wait; they take more for nothing at all.
const LONGEST_MS = 2 ** 31 - 1;

/** The time that several calls share, by a clock that nobody sets. */
export class Budget {
  readonly #end: number;

  /** @throws {@link ArgumentError} if it is no number of milliseconds between 0 and 2³¹ − 1. */
  constructor(timeoutMs: number) {
    if (!(timeoutMs >= 0 && timeoutMs <= LONGEST_MS)) {
      throw new ArgumentError(`a timeout is between 0 and ${LONGEST_MS} ms, not ${timeoutMs}`);
    }
    this.#end = performance.now() + timeoutMs;
  }

  /** Milliseconds; 0 or less when the time is up. */
  get left(): number {
    return this.#end - performance.now();
  }
}

/** Decides for one call, failure by failure, whether and when it is sent again. */
export class Retries {
  readonly #changesKey: boolean;
  readonly #random: () => number;
  #backoffMs = FIRST_BACKOFF_MS;

  /**
   * @param changesKey - whether the call changes the key.
   * @param random - gives numbers in [0, 1).
   */
  constructor(changesKey: boolean, random: () => number = Math.random) {
    this.#changesKey = changesKey;
    this.#random = random;
  }

  /** How many milliseconds to wait before the call is sent again; undefined if it is not, or not in the time left. */
  delayAfter(error: KeyImportError, leftMs: number): number | undefined {
    const plain = this.#plainDelay(error);
    if (plain === undefined) {
      return undefined;
    }
    // So that many callers do not return at once.
    const delay = plain * (1 + JITTER * this.#random());
    return delay < leftMs ? delay : undefined;
  }

  #plainDelay(error: KeyImportError): number | undefined {
    if (error instanceof OutcomeUnknown) {
      return undefined;
    }
    if (error.reason !== "") {
      // The broker attaches RetryInfo only where the same request can succeed, imports included; without a reason it
      // would not be the broker's word. No delay at all would be a loop as fast as the connection.
      return error.retryAfterMs === undefined ? undefined : Math.max(error.retryAfterMs, FIRST_BACKOFF_MS);
    }
    if ((error.code !== "UNAVAILABLE" && error.code !== "CANCELLED") || this.#changesKey) {
      return undefined;
    }
    // The broker is restarting; where the caller's signal cancelled the call, nobody asks for a delay.
    const delay = this.#backoffMs;
    this.#backoffMs = Math.min(2 * delay, LAST_BACKOFF_MS);
    return delay;
  }
}
