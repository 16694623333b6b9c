import assert from "node:assert/strict";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { describe, test } from "node:test";

import { unwrap } from "../driver/unwrap.js";
import {
  ArgumentError,
  checkMaterial,
  checkPublicKey,
  MaterialUnsuitable,
  wrap,
  WrappingKeyRejected,
  type WrappingAlgorithm,
  type WrappingKeySpec,
} from "../src/index.js";
import { aesKeyWrap } from "../src/wrapping.js";
import { keyPair, modulusOf, rsaKey, spki } from "./keys.js";

const SPECS = ["RSA_2048", "RSA_3072", "RSA_4096"] as const;
/** The most bytes that fit, by spec: RFC 8017 section 7.1.1, RFC 5649 and KMS's limit of 6,144 bytes. */
const ROOM = {
  RSAES_OAEP_SHA_1: [214, 342, 470],
  RSAES_OAEP_SHA_256: [190, 318, 446],
  RSA_AES_KEY_WRAP_SHA_1: [5880, 5752, 5624],
  RSA_AES_KEY_WRAP_SHA_256: [5880, 5752, 5624],
} as const;

describe("wrapping", () => {
  for (const [algorithm, limits] of Object.entries(ROOM) as [WrappingAlgorithm, readonly number[]][]) {
    for (const [index, spec] of SPECS.entries()) {
      const { publicKey, privateKey } = keyPair(spec);
      const under = { publicKey, wrappingAlgorithm: algorithm, wrappingKeySpec: spec };
      const limit = limits[index] ?? 0;

      test(`${algorithm} under ${spec} is undone by the private key, up to the limit`, () => {
        for (const size of [1, 32, limit]) {
          const material = randomBytes(size);
          const wrapped = wrap(material, under);
          assert.ok(wrapped.length <= 6144);
          assert.deepEqual(Buffer.from(unwrap(wrapped, privateKey, algorithm)), material);
        }
      });

      test(`${algorithm} under ${spec} refuses one byte more than ${limit}`, () => {
        const material = randomBytes(limit + 1);
        assert.throws(() => wrap(material, under), MaterialUnsuitable);
        const choice = { wrappingAlgorithm: algorithm, wrappingKeySpec: spec };
        assert.throws(() => {
          checkMaterial(material, choice);
        }, MaterialUnsuitable);
        checkMaterial(material.subarray(1), choice);
      });
    }
  }

  test("wraps the same material differently each time", () => {
    const under = { publicKey: keyPair("RSA_2048").publicKey, wrappingAlgorithm: "RSA_AES_KEY_WRAP_SHA_256" } as const;
    const [first, second] = [wrap(randomBytes(32), under), wrap(randomBytes(32), under)];
    assert.notDeepEqual(first.subarray(256), second.subarray(256));
  });

  test("follows RFC 5649, section 6", () => {
    const key = Buffer.from("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8", "hex");
    const vectors = {
      c37b7e6492584340bed12207808941155068f738: "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
      "466f7250617369": "afbeb0f07dfbf5419200f2ccb50bb24f",
    };
    for (const [plain, wrapped] of Object.entries(vectors)) {
      assert.equal(Buffer.from(aesKeyWrap(key, Buffer.from(plain, "hex"))).toString("hex"), wrapped);
    }
  });

  test("refuses what is no key material", () => {
    for (const material of [Buffer.alloc(0), Buffer.from("-----BEGIN PRIVATE KEY-----\n"), Buffer.alloc(6145)]) {
      assert.throws(() => {
        checkMaterial(material);
      }, MaterialUnsuitable);
    }
    assert.throws(() => {
      checkMaterial("c2VjcmV0" as unknown as Uint8Array);
    }, ArgumentError);
  });

  test("refuses algorithms that it does not offer, and words that are none", () => {
    const { publicKey } = keyPair("RSA_2048");
    for (const wrappingAlgorithm of ["RSAES_PKCS1_V1_5", "SM2PKE"] as const) {
      assert.throws(() => wrap(randomBytes(32), { publicKey, wrappingAlgorithm }), MaterialUnsuitable);
    }
    for (const word of ["RSAES_OAEP_SHA_512", "UNSPECIFIED", "constructor", "2"]) {
      const wrappingAlgorithm = word as WrappingAlgorithm;
      assert.throws(() => wrap(randomBytes(32), { publicKey, wrappingAlgorithm }), ArgumentError);
    }
  });
});

describe("the check of a public key", () => {
  const good = keyPair("RSA_2048").publicKey;
  const modulus = modulusOf(good);
  const even = Buffer.from(modulus);
  even[even.length - 1] = 0xfe;
  const odd1024 = Buffer.from(modulus.subarray(128));
  odd1024[0] = 0xff;

  const hostile: Record<string, [der: Buffer, message: RegExp]> = {
    "exponent 3": [rsaKey(modulus, 3), /exponent/],
    "exponent 1": [rsaKey(modulus, 1), /exponent/],
    "an even modulus": [rsaKey(even, 65537), /even/],
    "1024 bits": [rsaKey(odd1024, 65537), /1024 bits/],
    "2047 bits": [rsaKey(Buffer.concat([Buffer.from([0x7f]), modulus.subarray(1)]), 65537), /2047 bits/],
    "a byte after it": [Buffer.concat([good, Buffer.from([0])]), /canonically/],
    "the last byte missing": [good.subarray(0, -1), /no DER/],
    // 30 82 LL LL: the same length in one byte more is BER, and not DER.
    "a length in too many bytes": [Buffer.concat([Buffer.from([0x30, 0x83, 0]), good.subarray(2)]), /canonically/],
    "PEM text": [
      Buffer.from(`-----BEGIN PUBLIC KEY-----\n${good.toString("base64")}\n-----END PUBLIC KEY-----\n`),
      /no DER/,
    ],
    "an EC key": [spki(generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey), /not an RSA/],
    "an Ed25519 key": [spki(generateKeyPairSync("ed25519").publicKey), /not an RSA/],
    "an RSASSA-PSS key": [spki(generateKeyPairSync("rsa-pss", { modulusLength: 2048 }).publicKey), /not an RSA/],
    nothing: [Buffer.alloc(0), /no DER/],
  };
  for (const [what, [publicKey, message]] of Object.entries(hostile)) {
    test(`refuses ${what}`, () => {
      const rejection = { name: "WrappingKeyRejected", message };
      assert.throws(() => checkPublicKey(publicKey), rejection);
      assert.throws(() => wrap(randomBytes(32), { publicKey, wrappingAlgorithm: "RSAES_OAEP_SHA_256" }), rejection);
    });
  }

  test("refuses rsaEncryption without its NULL parameters", () => {
    const oid = Buffer.from("06092a864886f70d010101", "hex");
    const at = good.indexOf(oid) + oid.length;
    const without = Buffer.concat([good.subarray(0, at), good.subarray(at + 2)]);
    without.writeUInt16BE(good.length - 4 - 2, 2);
    without[5] = 11;
    assert.throws(() => checkPublicKey(without), { name: "WrappingKeyRejected", message: /canonically/ });
  });

  test("lets each spec's key pass, and no other spec's", () => {
    for (const spec of SPECS) {
      checkPublicKey(keyPair(spec).publicKey);
      for (const asked of SPECS) {
        const check = (): unknown => checkPublicKey(keyPair(spec).publicKey, asked);
        if (asked === spec) {
          check();
        } else {
          assert.throws(check, WrappingKeyRejected);
        }
      }
    }
    assert.throws(() => checkPublicKey(good, "SM2"), WrappingKeyRejected);
    assert.throws(() => checkPublicKey(good, "RSA_1024" as WrappingKeySpec), ArgumentError);
  });
});
