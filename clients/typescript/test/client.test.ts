import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";

import { create } from "@bufbuild/protobuf";
import { TimestampSchema, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { status } from "@grpc/grpc-js";

import { unwrap } from "../driver/unwrap.js";
import { WrappingAlgorithm, WrappingKeySpec } from "../src/gen/keyimport/v1/key_import_pb.js";
import {
  ArgumentError,
  ImportTokenInvalid,
  KeyImportClient,
  KeyImportError,
  KeyNotFound,
  MaterialUnsuitable,
  OutcomeUnknown,
  type Expiration,
} from "../src/index.js";
import { errorInfo, failure, FakeBroker, KEY_ARN, KEY_ID, MATERIAL_ID, retryInfo, statusDetails } from "./broker.js";
import { keyPair } from "./keys.js";

const GET = "GetParametersForImport";
const IMPORT = "ImportKeyMaterial";
const DELETE = "DeleteImportedKeyMaterial";
const NEVER = { neverExpires: true } as const;
const material = randomBytes(32);

/** Runs the body with a broker and a client connected to it. */
async function connected(body: (client: KeyImportClient, broker: FakeBroker) => Promise<void>): Promise<void> {
  const broker = await FakeBroker.start();
  const client = new KeyImportClient(broker.target, { timeoutMs: 10_000 });
  try {
    await body(client, broker);
  } finally {
    client.close();
    await broker[Symbol.asyncDispose]();
  }
}

const throttled = (delayMs: number) =>
  failure(status.RESOURCE_EXHAUSTED, statusDetails(errorInfo("KMS_THROTTLED"), retryInfo(0, delayMs * 1_000_000)));
const refused = (reason: string) => failure(status.FAILED_PRECONDITION, statusDetails(errorInfo(reason)));
const away = failure(status.UNAVAILABLE);
const stopped = failure(status.CANCELLED);

describe("an import", () => {
  test("wraps what the private key unwraps, and imports it into the ARN that was checked", () =>
    connected(async (client, broker) => {
      const validTo = new Date("2027-01-02T03:04:05.678Z");
      const imported = await client.importKeyMaterial(KEY_ID, material, {
        validTo,
        importType: "NEW_KEY_MATERIAL",
        keyMaterialDescription: "a note",
      });
      assert.equal(imported.keyArn, KEY_ARN);
      assert.equal(imported.keyMaterialId, MATERIAL_ID);
      const [request] = broker.imports;
      assert.ok(request);
      assert.equal(request.keyId, KEY_ARN);
      assert.equal(request.keyMaterialDescription, "a note");
      assert.deepEqual(request.expiration, { case: "validTo", value: timestampFromMs(validTo.getTime()) });
      const wrapped = request.encryptedKeyMaterial;
      assert.deepEqual(Buffer.from(unwrap(wrapped, keyPair("RSA_2048").privateKey, "RSAES_OAEP_SHA_256")), material);
      assert.equal(broker.headers[0]?.authority, "localhost");
    }));

  test("is carried out offline in three steps as well", () =>
    connected(async (client, broker) => {
      const parameters = await client.getParameters(KEY_ARN, {
        wrappingAlgorithm: "RSA_AES_KEY_WRAP_SHA_256",
        wrappingKeySpec: "RSA_3072",
        minRemainingValidityMs: 3_600_000,
        sharing: "EXCLUSIVE",
      });
      assert.equal(parameters.source, "KMS");
      const wrapped = parameters.wrap(material);
      assert.deepEqual(await client.importWrapped(KEY_ID, wrapped, parameters.importToken, NEVER), {
        keyArn: KEY_ARN,
        keyMaterialId: MATERIAL_ID,
      });
      assert.deepEqual(broker.imports[0]?.expiration, { case: "neverExpires", value: true });
    }));

  test("renews a token that KMS refuses, once", () =>
    connected(async (client, broker) => {
      broker.fail(IMPORT, refused("IMPORT_TOKEN_EXPIRED"));
      await client.importKeyMaterial(KEY_ID, material, NEVER);
      assert.deepEqual(broker.calls, [GET, IMPORT, GET, IMPORT]);
      broker.fail(IMPORT, refused("IMPORT_TOKEN_INVALID"), refused("IMPORT_TOKEN_INVALID"));
      await assert.rejects(client.importKeyMaterial(KEY_ID, material, NEVER), ImportTokenInvalid);
      assert.equal(broker.imports.length, 1);
      assert.equal(broker.calls.length, 8);
    }));

  test("sends nothing where the material or an argument is unfit", () =>
    connected(async (client, broker) => {
      const unfit = [
        client.importKeyMaterial(KEY_ID, new Uint8Array(), NEVER),
        client.importKeyMaterial(KEY_ID, randomBytes(300), {
          ...NEVER,
          wrappingAlgorithm: "RSAES_OAEP_SHA_256",
          wrappingKeySpec: "RSA_2048",
        }),
        client.importKeyMaterial(KEY_ID, material, { ...NEVER, wrappingAlgorithm: "SM2PKE" }),
      ];
      for (const attempt of unfit) {
        await assert.rejects(attempt, MaterialUnsuitable);
      }
      const misuses = [
        {},
        { validTo: new Date(), neverExpires: true },
        { validTo: new Date(NaN) },
        { neverExpires: false },
      ];
      for (const misuse of misuses) {
        await assert.rejects(client.importKeyMaterial(KEY_ID, material, misuse as Expiration), ArgumentError);
        await assert.rejects(client.importWrapped(KEY_ID, material, material, misuse as Expiration), ArgumentError);
      }
      await assert.rejects(client.discard(KEY_ID, "YmFzZTY0" as unknown as Uint8Array), ArgumentError);
      await assert.rejects(client.discard(KEY_ID, material, { timeoutMs: -1 }), ArgumentError);
      assert.deepEqual(broker.calls, []);
    }));

  test("has an unknown outcome where it breaks off, and is not sent again", () =>
    connected(async (client, broker) => {
      for (const code of [status.UNAVAILABLE, status.INTERNAL, status.UNKNOWN, status.CANCELLED]) {
        broker.fail(IMPORT, failure(code));
        await assert.rejects(client.importKeyMaterial(KEY_ID, material, NEVER), { name: "OutcomeUnknown", reason: "" });
      }
      broker.fail(IMPORT, "stall");
      await assert.rejects(client.importKeyMaterial(KEY_ID, material, { ...NEVER, timeoutMs: 1_500 }), {
        name: "OutcomeUnknown",
        code: "DEADLINE_EXCEEDED",
      });
      broker.fail(DELETE, away);
      await assert.rejects(client.deleteImportedKeyMaterial(KEY_ID), OutcomeUnknown);
      assert.equal(broker.calls.length, 2 * 5 + 1);
    }));

  test("has an unknown outcome where the answer is about another key", () =>
    connected(async (client, broker) => {
      broker.keyArn = KEY_ARN.replace("1234", "4321");
      await assert.rejects(client.importKeyMaterial(KEY_ID, material, NEVER), OutcomeUnknown);
      await assert.rejects(client.deleteImportedKeyMaterial(KEY_ARN), OutcomeUnknown);
      await assert.rejects(client.status(KEY_ID), { name: "KeyImportError" });
    }));
});

describe("a parameter set", () => {
  const large = keyPair("RSA_3072").publicKey;
  const lies: Record<string, [lie: FakeBroker["lie"], message: RegExp]> = {
    "another key": [{ keyArn: KEY_ARN.replace("1234", "4321") }, /it is for/],
    "a key whose id ends alike": [{ keyArn: KEY_ARN.replace("key/", "key/x") }, /it is for/],
    "another algorithm": [{ wrappingAlgorithm: WrappingAlgorithm.RSAES_OAEP_SHA_1 }, /SHA_1 is not the .* algorithm/],
    "no algorithm": [{ wrappingAlgorithm: WrappingAlgorithm.UNSPECIFIED }, /UNSPECIFIED is not the/],
    "another spec": [{ wrappingKeySpec: WrappingKeySpec.RSA_3072 }, /RSA_3072 is not the wrapping key spec/],
    "another SHA-256": [{ publicKeySha256: new Uint8Array(32) }, /SHA-256/],
    "no SHA-256": [{ publicKeySha256: new Uint8Array() }, /SHA-256/],
    "another public key": [{ publicKey: large }, /SHA-256/],
    "a public key of another size": [
      { publicKey: large, publicKeySha256: createHash("sha256").update(large).digest() },
      /3072 bits, which is not RSA_2048/,
    ],
    "no token": [{ importToken: new Uint8Array() }, /token is empty/],
    "an expiry that is past": [{ parametersValidTo: timestampFromMs(Date.now() - 1) }, /it expired at/],
    "no expiry": [{ parametersValidTo: undefined }, /no date/],
    "an expiry after the year 9999": [
      { parametersValidTo: create(TimestampSchema, { seconds: 253_402_300_800n }) },
      /no date/,
    ],
    "an expiry of too many nanoseconds": [
      { parametersValidTo: create(TimestampSchema, { seconds: 4_000_000_000n, nanos: 1_000_000_000 }) },
      /no date/,
    ],
  };
  for (const [what, [lie, message]] of Object.entries(lies)) {
    test(`is rejected with ${what}`, () =>
      connected(async (client, broker) => {
        broker.lie = lie;
        const choice = { wrappingAlgorithm: "RSAES_OAEP_SHA_256", wrappingKeySpec: "RSA_2048" } as const;
        const rejection = { name: "WrappingKeyRejected", message };
        await assert.rejects(client.getParameters(KEY_ID, choice), rejection);
        await assert.rejects(client.importKeyMaterial(KEY_ID, material, { ...NEVER, ...choice }), rejection);
        assert.deepEqual(broker.calls, [GET, GET]);
      }));
  }

  test("is rejected with what this library does not wrap with, where nothing was asked for", () =>
    connected(async (client, broker) => {
      // Unspecified, PKCS #1 v1.5 or SM2, and what is newer than this library.
      for (const lie of [{ wrappingAlgorithm: 0 }, { wrappingAlgorithm: 1 }, { wrappingAlgorithm: 99 }]) {
        Object.assign(broker, { lie });
        await assert.rejects(client.getParameters(KEY_ID), { name: "WrappingKeyRejected", message: /not wrap with/ });
      }
      for (const lie of [{ wrappingKeySpec: 0 }, { wrappingKeySpec: 4 }, { wrappingKeySpec: 99 }]) {
        Object.assign(broker, { lie });
        await assert.rejects(client.getParameters(KEY_ID), { name: "WrappingKeyRejected", message: /not wrap under/ });
      }
    }));

  test("does not show its token", () =>
    connected(async (client) => {
      const parameters = await client.getParameters(KEY_ID);
      assert.equal(parameters.importToken.length, 1024);
      const shown = [
        inspect(parameters, { depth: null, showHidden: true, maxArrayLength: null }),
        JSON.stringify(parameters),
        // eslint-disable-next-line @typescript-eslint/no-base-to-string -- whatever it is
        String(parameters),
        JSON.stringify(Object.entries(parameters)),
      ].join();
      const token = Buffer.from(parameters.importToken);
      for (const form of [token.toString("hex"), token.toString("base64"), [...token].join(), [...token].join(", ")]) {
        assert.ok(!shown.includes(form.slice(0, 40)));
      }
    }));
});

describe("a client", () => {
  test("asks again when the broker says so, imports included", () =>
    connected(async (client, broker) => {
      broker.fail(GET, throttled(120));
      broker.fail(IMPORT, throttled(120));
      const start = performance.now();
      await client.importKeyMaterial(KEY_ID, material, NEVER);
      assert.ok(performance.now() - start >= 240);
      assert.deepEqual(broker.calls, [GET, GET, IMPORT, IMPORT]);
      assert.equal(broker.imports.length, 1);
    }));

  test("gives up at once where the broker's delay is longer than the time left", () =>
    connected(async (client, broker) => {
      broker.fail(GET, throttled(900));
      await assert.rejects(client.getParameters(KEY_ID, { timeoutMs: 500 }), {
        name: "KmsThrottled",
        retryAfterMs: 900,
      });
      assert.deepEqual(broker.calls, [GET]);
    }));

  test("waits for a broker that restarts where no key is changed", () =>
    connected(async (client, broker) => {
      broker.fail(GET, away, stopped);
      await client.getParameters(KEY_ID);
      broker.fail("DiscardParameters", away, stopped);
      await client.discard(KEY_ID, material);
      broker.fail("GetKeyImportStatus", away, stopped);
      const { keyState, materialValidTo } = await client.status(KEY_ID);
      assert.deepEqual([keyState, materialValidTo], ["Enabled", undefined]);
      assert.equal(broker.calls.length, 3 + 3 + 3);
    }));

  test("finds a broker that was killed and is back", () =>
    connected(async (client, broker) => {
      await client.getParameters(KEY_ID);
      broker.stop();
      const back = sleep(500).then(() => broker.listen());
      await client.getParameters(KEY_ID);
      await back;
    }));

  test("does not wait where there is no other answer to be had", () =>
    connected(async (client, broker) => {
      broker.fail(GET, failure(status.NOT_FOUND, statusDetails(errorInfo("KEY_NOT_FOUND"))));
      await assert.rejects(client.getParameters(KEY_ID), KeyNotFound);
      assert.deepEqual(broker.calls, [GET]);
    }));

  test("shares one timeout among its calls, and tells it to the broker", () =>
    connected(async (client, broker) => {
      broker.fail(GET, throttled(300));
      await client.importKeyMaterial(KEY_ID, material, { ...NEVER, timeoutMs: 6_000 });
      const [first = 0, second = 0, third = 0] = broker.headers.map(({ leftMs }) => leftMs);
      assert.ok(first <= 6_000 && first > 3_000, String(first));
      assert.ok(second <= 5_700 && third <= second, `${second} ${third}`);
      broker.fail(GET, "stall");
      await assert.rejects(client.getParameters(KEY_ID, { timeoutMs: 200 }), { code: "DEADLINE_EXCEEDED" });
      await assert.rejects(client.deleteImportedKeyMaterial(KEY_ID, { timeoutMs: 0 }), { name: "KeyImportError" });
      assert.ok(!broker.calls.includes(DELETE));
    }));

  test("can be told to stop", () =>
    connected(async (client, broker) => {
      const reason = new Error("the user went home");
      for (const held of ["stall", throttled(900)] as const) {
        broker.fail(GET, held);
        const controller = new AbortController();
        const calls = broker.calls.length;
        const attempt = client.getParameters(KEY_ID, { signal: controller.signal });
        const rejection = assert.rejects(attempt, reason);
        while (broker.calls.length === calls) {
          await sleep(10);
        }
        controller.abort(reason);
        await rejection;
      }
      await assert.rejects(client.deleteImportedKeyMaterial(KEY_ID, { signal: AbortSignal.abort(reason) }), reason);
      assert.deepEqual(broker.calls, [GET, GET]);
      broker.fail(DELETE, "stall");
      await assert.rejects(client.deleteImportedKeyMaterial(KEY_ID, { signal: AbortSignal.timeout(100) }), {
        name: "OutcomeUnknown",
        code: "CANCELLED",
      });
    }));

  test("is of no use once it is closed", () =>
    connected(async (client, broker) => {
      client.close();
      client.close();
      await assert.rejects(client.getParameters(KEY_ID), { name: "Error", message: "the client is closed" });
      assert.deepEqual(broker.calls, []);
    }));

  test("tells nothing secret when something fails", () =>
    connected(async (client, broker) => {
      const token = randomBytes(64);
      broker.fail(IMPORT, away, refused("KEY_MATERIAL_MISMATCH"));
      for (let run = 0; run < 2; run++) {
        const error: unknown = await client.importWrapped(KEY_ID, material, token, NEVER).catch((it: unknown) => it);
        assert.ok(error instanceof KeyImportError);
        const shown = inspect(error, { depth: null, showHidden: true, maxArrayLength: null });
        for (const secret of [token, material]) {
          assert.ok(!shown.includes(secret.toString("hex").slice(0, 16)));
          assert.ok(
            !shown.includes([...secret.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")),
          );
          assert.ok(!shown.includes([...secret.subarray(0, 8)].join(", ")));
        }
      }
    }));

  test("takes no message that is far too large", () =>
    connected(async (client, broker) => {
      broker.lie = { importToken: randomBytes(65_536) };
      await assert.rejects(client.getParameters(KEY_ID), { name: "KeyImportError", code: "RESOURCE_EXHAUSTED" });
      await assert.rejects(client.importWrapped(KEY_ID, randomBytes(65_536), material, NEVER), KeyImportError);
      assert.deepEqual(broker.calls, [GET]);
    }));
});

describe("a target", () => {
  test("without TLS is a unix socket or on this machine", () => {
    for (const target of [
      "unix:/run/x",
      "tcp:localhost:1",
      "tcp:127.0.0.1:1",
      "tcp:127.1.2.3:1",
      "tcp:[::1]:1",
      "localhost:1",
    ]) {
      new KeyImportClient(target).close();
    }
    const others = [
      "10.0.0.1:1",
      "0.0.0.0:1",
      "[::]:1",
      "[::ffff:8.8.8.8]:1",
      "localhost.example:1",
      "127.0.0.1.example:1",
      "128.0.0.1:1",
    ];
    for (const other of others) {
      assert.throws(() => new KeyImportClient(`tcp:${other}`), { name: "ArgumentError", message: /needs TLS/ });
    }
  });

  test("is one", () => {
    for (const target of [
      "",
      "unix:",
      "tcp:",
      "tcp:127.0.0.1",
      "tcp::1",
      "tcp:127.0.0.1:x",
      "tcp:127.0.0.1:65536",
      "dns:///127.0.0.1:1",
      "::1:1",
    ]) {
      assert.throws(() => new KeyImportClient(target), { name: "ArgumentError", message: /neither/ }, target);
    }
    assert.throws(() => new KeyImportClient("unix:/x", { timeoutMs: NaN }), ArgumentError);
  });

  test("can be a loopback port", async () => {
    const broker = new FakeBroker();
    const port = await broker.listen("127.0.0.1:0");
    const client = new KeyImportClient(`tcp:localhost:${port}`);
    assert.equal((await client.getParameters(KEY_ID)).keyArn, KEY_ARN);
    client.close();
    await broker[Symbol.asyncDispose]();
  });
});
