import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { ArgumentError, KeyImportError, KeyNotFound, KmsThrottled, OutcomeUnknown } from "../src/index.js";
import { Budget, Retries } from "../src/retries.js";

const never = (): number => 0;
const almostOne = (): number => 0.999_999;
const throttled = (retryAfterMs?: number): KeyImportError =>
  new KmsThrottled("later", { reason: "KMS_THROTTLED", code: "RESOURCE_EXHAUSTED", retryAfterMs });
const unavailable = new KeyImportError("away", { code: "UNAVAILABLE" });
const cancelled = new KeyImportError("stopped", { code: "CANCELLED" });

describe("retries", () => {
  for (const changesKey of [false, true]) {
    test(`follow RetryInfo where the call changes ${changesKey ? "a" : "no"} key`, () => {
      assert.equal(new Retries(changesKey, never).delayAfter(throttled(700), 1000), 700);
    });
  }

  test("lengthen each delay by up to a fifth", () => {
    const delay = new Retries(false, almostOne).delayAfter(throttled(1000), 5000) ?? 0;
    assert.ok(delay > 1199 && delay < 1200, String(delay));
    for (let run = 0; run < 100; run++) {
      const random = new Retries(false).delayAfter(throttled(1000), 5000) ?? 0;
      assert.ok(random >= 1000 && random < 1200);
    }
  });

  test("do not begin what would outlast the time left", () => {
    assert.equal(new Retries(false, never).delayAfter(throttled(1000), 1000), undefined);
    assert.equal(new Retries(false, almostOne).delayAfter(throttled(900), 1000), undefined);
    assert.equal(new Retries(false, never).delayAfter(unavailable, 100), undefined);
    assert.equal(new Retries(false, never).delayAfter(throttled(1000), -1), undefined);
  });

  test("never run as fast as the connection", () => {
    assert.equal(new Retries(false, never).delayAfter(throttled(0), 1000), 100);
  });

  test("wait for a broker that restarts, longer and longer", () => {
    for (const restarting of [unavailable, cancelled]) {
      const retries = new Retries(false, never);
      const delays = Array.from({ length: 8 }, () => retries.delayAfter(restarting, 30_000));
      assert.deepEqual(delays, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    }
  });

  test("try nothing else again", () => {
    const final = [
      throttled(),
      new KeyNotFound("no", { reason: "KEY_NOT_FOUND", code: "NOT_FOUND" }),
      new KeyImportError("slow", { code: "DEADLINE_EXCEEDED" }),
      new KeyImportError("a proxy's word", { code: "RESOURCE_EXHAUSTED", retryAfterMs: 10 }),
      new KeyImportError("newer", { code: "UNAVAILABLE", reason: "NEWER" }),
      new OutcomeUnknown("?", { code: "UNAVAILABLE" }),
      new OutcomeUnknown("?", { code: "CANCELLED" }),
      new OutcomeUnknown("?", { code: "UNKNOWN", reason: "OUTCOME_UNKNOWN", retryAfterMs: 10 }),
    ];
    for (const error of final) {
      assert.equal(new Retries(false, never).delayAfter(error, 30_000), undefined, error.message);
    }
    for (const restarting of [unavailable, cancelled]) {
      assert.equal(new Retries(true, never).delayAfter(restarting, 30_000), undefined);
    }
  });
});

describe("a budget", () => {
  test("runs out", () => {
    assert.ok(new Budget(0).left <= 0);
    const { left } = new Budget(1000);
    assert.ok(left > 0 && left <= 1000);
  });

  test("is a number of milliseconds that timers can wait", () => {
    for (const timeoutMs of [-1, NaN, Infinity, 2 ** 31]) {
      assert.throws(() => new Budget(timeoutMs), ArgumentError);
    }
  });
});
