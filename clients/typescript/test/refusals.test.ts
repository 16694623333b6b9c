import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { status } from "@grpc/grpc-js";

import { ErrorReasonSchema } from "../src/gen/keyimport/v1/key_import_pb.js";
import * as keyimport from "../src/index.js";
import { fromRpc } from "../src/refusals.js";
import { badRequest, errorInfo, failure, retryInfo, statusDetails } from "./broker.js";

const error = (changesKey: boolean, ...[code, blob]: Parameters<typeof failure>): keyimport.KeyImportError =>
  fromRpc(failure(code, blob), changesKey);

describe("errors", () => {
  test("have a class of their own for each reason of the proto", () => {
    const classes = new Set<unknown>();
    for (const { localName, number } of ErrorReasonSchema.values) {
      if (number === 0) {
        continue;
      }
      const refusal = error(false, status.INTERNAL, statusDetails(errorInfo(localName)));
      const camel = localName.toLowerCase().replace(/(?:^|_)(.)/g, (_, letter: string) => letter.toUpperCase());
      assert.equal(refusal.constructor, keyimport[camel as keyof typeof keyimport], localName);
      assert.equal(refusal.name, camel);
      assert.equal(refusal.reason, localName);
      classes.add(refusal.constructor);
    }
    assert.equal(classes.size, ErrorReasonSchema.values.length - 1);
  });

  test("carry what the broker said", () => {
    const blob = statusDetails(
      errorInfo("INTERNAL", { correlation_id: "c0ffee" }),
      retryInfo(1, 500_000_000),
      badRequest("key_id"),
    );
    const refusal = error(true, status.INTERNAL, blob);
    assert.ok(refusal instanceof keyimport.Internal && refusal instanceof keyimport.BrokerFault);
    assert.equal(refusal.code, "INTERNAL");
    assert.equal(refusal.message, "A sentence for the caller.");
    assert.equal(refusal.field, "key_id");
    assert.equal(refusal.retryAfterMs, 1500);
    assert.equal(refusal.correlationId, "c0ffee");
    assert.deepEqual(refusal.metadata, { correlation_id: "c0ffee" });
  });

  test("are plain for a reason newer than this library, whatever it is called", () => {
    for (const reason of ["KEY_TOO_SHINY", "constructor", "__proto__", "UNSPECIFIED"]) {
      const refusal = error(true, status.UNAVAILABLE, statusDetails(errorInfo(reason)));
      assert.equal(refusal.constructor, keyimport.KeyImportError);
      assert.equal(refusal.reason, reason);
    }
  });

  test("take no reason from another domain", () => {
    const refusal = error(false, status.NOT_FOUND, statusDetails(errorInfo("KEY_NOT_FOUND", { a: "b" }, "elsewhere")));
    assert.equal(refusal.constructor, keyimport.KeyImportError);
    assert.equal(refusal.reason, "");
    assert.deepEqual(refusal.metadata, {});
  });

  test("survive damaged details", () => {
    const blob = statusDetails(errorInfo("KEY_NOT_FOUND"), retryInfo(3, 0));
    for (let length = 0; length < blob.length; length++) {
      const refusal = error(false, status.NOT_FOUND, blob.subarray(0, length));
      assert.ok(refusal.reason === "" || refusal.reason === "KEY_NOT_FOUND");
      const noise = Buffer.from(blob);
      noise[length] = (noise[length] ?? 0) ^ 0xff;
      assert.ok(error(false, status.NOT_FOUND, noise) instanceof keyimport.KeyImportError);
    }
  });

  test("have no delay where RetryInfo has none that counts", () => {
    for (const [seconds, nanos] of [
      [-1, 0],
      [0, -1],
      [0, 1_000_000_000],
      [315_576_000_001, 0],
    ] as const) {
      const refusal = error(
        false,
        status.UNAVAILABLE,
        statusDetails(errorInfo("KMS_UNAVAILABLE"), retryInfo(seconds, nanos)),
      );
      assert.equal(refusal.retryAfterMs, undefined);
    }
  });

  test("leave the outcome open where an import or delete breaks off without a reason", () => {
    const brokenOff = ["CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"];
    const codes = Object.values(status).filter((code): code is status => typeof code === "number");
    for (const code of codes.filter((code) => code !== status.OK)) {
      const name = status[code];
      const [change, other] = [error(true, code), error(false, code)];
      assert.equal(change instanceof keyimport.OutcomeUnknown, brokenOff.includes(name), name);
      assert.equal(other.constructor, keyimport.KeyImportError);
      assert.equal(change.code, name);
    }
    const unheardOf = fromRpc(Object.assign(failure(status.UNKNOWN), { code: 99 }), true);
    assert.ok(unheardOf instanceof keyimport.OutcomeUnknown);
    assert.equal(unheardOf.code, "UNKNOWN");
  });
});
