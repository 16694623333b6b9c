/**
 * Wrapping keys for tests, and keys that no KMS would send.
 *
 * @module
 */
import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";

/** A wrapping key: its halves as KMS and the unwrapping side have them. */
export interface KeyPair {
  readonly publicKey: Buffer;
  readonly privateKey: Buffer;
}

const made = new Map<string, KeyPair>();

/** The wrapping key of a spec; made when it is first asked for, since that takes its time. */
export function keyPair(spec: "RSA_2048" | "RSA_3072" | "RSA_4096"): KeyPair {
  const known = made.get(spec);
  if (known) {
    return known;
  }
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: Number(spec.slice(4)) });
  const pair = { publicKey: spki(publicKey), privateKey: privateKey.export({ format: "der", type: "pkcs8" }) };
  made.set(spec, pair);
  return pair;
}

/** An RSA public key of these numbers, be they good or not. */
export function rsaKey(modulus: Uint8Array, exponent: number): Buffer {
  const n = Buffer.from(modulus).toString("base64url");
  const e = Buffer.from(exponent.toString(16).padStart(6, "0"), "hex").toString("base64url");
  return spki(createPublicKey({ key: { kty: "RSA", n, e }, format: "jwk" }));
}

/** The modulus of an RSA public key, most significant byte first. */
export function modulusOf(publicKey: Buffer): Buffer {
  const { n } = createPublicKey({ key: publicKey, format: "der", type: "spki" }).export({ format: "jwk" });
  return Buffer.from(n ?? "", "base64url");
}

/** A public key as DER SubjectPublicKeyInfo. */
export function spki(key: KeyObject): Buffer {
  return key.export({ format: "der", type: "spki" });
}
