/**
 * Key material wrapped as KMS unwraps it, under public keys that have been looked at first.
 *
 * @module
 */
import { constants, createCipheriv, createPublicKey, publicEncrypt, randomBytes, type KeyObject } from "node:crypto";

import { ArgumentError, MaterialUnsuitable, WrappingKeyRejected } from "./errors.js";
import {
  WrappingAlgorithmSchema,
  WrappingKeySpecSchema,
  type WrappingAlgorithm as AlgorithmNumber,
  type WrappingKeySpec as SpecNumber,
} from "./gen/keyimport/v1/key_import_pb.js";
import { numberOf } from "./words.js";

/** How key material is encrypted under the wrapping public key, in KMS's words. */
export type WrappingAlgorithm = Exclude<keyof typeof AlgorithmNumber, "UNSPECIFIED">;

/** The kind and size of a wrapping public key, in KMS's words. */
export type WrappingKeySpec = Exclude<keyof typeof SpecNumber, "UNSPECIFIED">;

/** One wrapping algorithm: the hash of OAEP and of its MGF1, and whether an AES key stands between. */
interface Recipe {
  readonly hash: "sha1" | "sha256";
  readonly hashBytes: number;
  readonly aesKeyWrap: boolean;
}

const SHA_1 = { hash: "sha1", hashBytes: 20 } as const;
const SHA_256 = { hash: "sha256", hashBytes: 32 } as const;

// https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
const RECIPES: ReadonlyMap<WrappingAlgorithm, Recipe> = new Map([
  ["RSAES_OAEP_SHA_1", { ...SHA_1, aesKeyWrap: false }],
  ["RSAES_OAEP_SHA_256", { ...SHA_256, aesKeyWrap: false }],
  ["RSA_AES_KEY_WRAP_SHA_1", { ...SHA_1, aesKeyWrap: true }],
  ["RSA_AES_KEY_WRAP_SHA_256", { ...SHA_256, aesKeyWrap: true }],
]);
const REFUSALS: ReadonlyMap<WrappingAlgorithm, string> = new Map([
  ["RSAES_PKCS1_V1_5", "it is deprecated, and KMS has refused it since 2023-10-10"],
  ["SM2PKE", "this library does not offer it"],
]);
const MODULUS_BYTES: ReadonlyMap<WrappingKeySpec, number> = new Map([
  ["RSA_2048", 256],
  ["RSA_3072", 384],
  ["RSA_4096", 512],
]);
/** 65537, as a JSON Web Key has it. */
const PUBLIC_EXPONENT = "AQAB";
const AES_KEY_BYTES = 32;
/** The most that KMS takes as EncryptedKeyMaterial. */
const WRAPPED_BYTES = 6144;
const WRAPPED_LIMIT = `KMS takes at most ${WRAPPED_BYTES} bytes of wrapped key material`;
/** The alternative initial value of RFC 5649, section 3, which OpenSSL wants to be told. */
const KEY_WRAP_IV = Buffer.from("a65959a6", "hex");
const PEM = Buffer.from("-----BEGIN");

/** How key material is to be wrapped, as far as that is settled. */
export interface WrappingChoice {
  readonly wrappingAlgorithm?: WrappingAlgorithm | undefined;
  readonly wrappingKeySpec?: WrappingKeySpec | undefined;
}

/** What key material is wrapped under; a parameter set is one. */
export interface WrappingKey extends WrappingChoice {
  /** DER SubjectPublicKeyInfo. */
  readonly publicKey: Uint8Array;
  /** The parameter set's algorithm. */
  readonly wrappingAlgorithm: WrappingAlgorithm;
  /** The parameter set's spec; without it an RSA key of any of the three sizes will do. */
  readonly wrappingKeySpec?: WrappingKeySpec | undefined;
}

/**
 * Wraps key material for import.
 *
 * @param material - AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER.
 * @param under - what to wrap it under.
 * @returns for RSAES_OAEP the one RSA block; for RSA_AES_KEY_WRAP the RSA block with a fresh AES-256 key in it, and
 *   then the material wrapped under that key with padding (RFC 5649).
 * @throws {@link MaterialUnsuitable} if the material does not fit, or this library does not wrap with the algorithm.
 * @throws {@link WrappingKeyRejected} if the public key is not what {@link checkPublicKey} lets pass.
 */
export function wrap(material: Uint8Array, { publicKey, wrappingAlgorithm, wrappingKeySpec }: WrappingKey): Uint8Array {
  const key = checkPublicKey(publicKey, wrappingKeySpec);
  checkMaterial(material, { wrappingAlgorithm, wrappingKeySpec: specOf(key) });
  const recipe = recipeOf(wrappingAlgorithm);
  if (!recipe.aesKeyWrap) {
    return oaep(key, recipe, material);
  }
  const aesKey = randomBytes(AES_KEY_BYTES);
  try {
    return Buffer.concat([oaep(key, recipe, aesKey), aesKeyWrap(aesKey, material)]);
  } finally {
    aesKey.fill(0);
  }
}

/**
 * Refuses a wrapping public key that is anything but one canonical DER SubjectPublicKeyInfo of an RSA key of the spec's
 * size, with the exponent 65537 and an odd modulus.
 *
 * @param der - the public key, and nothing after it.
 * @param wrappingKeySpec - the spec it must be of; without it the three RSA specs will do.
 * @returns the key.
 * @throws {@link WrappingKeyRejected} if it is anything else.
 */
export function checkPublicKey(der: Uint8Array, wrappingKeySpec?: WrappingKeySpec): KeyObject {
  numberOf(WrappingKeySpecSchema, wrappingKeySpec);
  if (wrappingKeySpec !== undefined && !MODULUS_BYTES.has(wrappingKeySpec)) {
    throw new WrappingKeyRejected(`this library does not wrap under a key of spec ${wrappingKeySpec}`);
  }
  let key: KeyObject;
  try {
    key = createPublicKey({ key: Buffer.from(der), format: "der", type: "spki" });
  } catch (cause) {
    throw new WrappingKeyRejected("the public key is no DER SubjectPublicKeyInfo", { cause });
  }
  if (key.asymmetricKeyType !== "rsa") {
    throw new WrappingKeyRejected("the public key is not an RSA key");
  }
  if (!key.export({ format: "der", type: "spki" }).equals(der)) {
    throw new WrappingKeyRejected("the public key is not encoded canonically");
  }
  const spec = specOf(key);
  if (spec === undefined || spec !== (wrappingKeySpec ?? spec)) {
    const wanted = wrappingKeySpec === undefined ? "no wrapping key spec" : `not ${wrappingKeySpec}`;
    throw new WrappingKeyRejected(`the public key is an RSA key of ${bitsOf(key)} bits, which is ${wanted}`);
  }
  // OpenSSL lets these two pass. Under either of them the wrapped material would be open to whoever sent the key.
  const { e, n } = key.export({ format: "jwk" });
  if (e !== PUBLIC_EXPONENT) {
    throw new WrappingKeyRejected("the public key's exponent is not 65537");
  }
  if (((Buffer.from(n ?? "", "base64url").at(-1) ?? 0) & 1) === 0) {
    throw new WrappingKeyRejected("the public key's modulus is even, so it is no RSA modulus");
  }
  return key;
}

/**
 * Refuses what can be seen to be unfit before a parameter set is spent on it.
 *
 * @param material - the key material in plain text.
 * @param choice - the wrapping algorithm and the wrapping key spec, as far as they are known.
 * @throws {@link MaterialUnsuitable} if it is empty, or PEM, or does not fit, or this library does not wrap with the
 *   algorithm.
 */
export function checkMaterial(material: Uint8Array, choice: WrappingChoice = {}): void {
  const { wrappingAlgorithm, wrappingKeySpec } = choice;
  numberOf(WrappingAlgorithmSchema, wrappingAlgorithm);
  numberOf(WrappingKeySpecSchema, wrappingKeySpec);
  // OpenSSL would take a string as well, and wrap its UTF-8.
  if (!(material instanceof Uint8Array)) {
    throw new ArgumentError("key material is a Uint8Array");
  }
  if (material.length === 0) {
    throw new MaterialUnsuitable("the key material is empty");
  }
  if (PEM.equals(material.subarray(0, PEM.length))) {
    throw new MaterialUnsuitable("the key material is PEM text; KMS takes a private key as PKCS#8 DER");
  }
  if (wrappingAlgorithm === undefined) {
    if (material.length > WRAPPED_BYTES) {
      throw new MaterialUnsuitable(`${material.length} bytes of key material fit nowhere; ${WRAPPED_LIMIT}`);
    }
    return;
  }
  const recipe = recipeOf(wrappingAlgorithm);
  const room = new Map([...MODULUS_BYTES].map(([spec, modulus]) => [spec, capacity(recipe, modulus)]));
  const known = wrappingKeySpec === undefined ? undefined : room.get(wrappingKeySpec);
  const limit = known ?? Math.max(...room.values());
  if (material.length > limit) {
    throw new MaterialUnsuitable(
      `${material.length} bytes of key material do not fit ${wrappingAlgorithm} under ` +
        `${(known === undefined ? undefined : wrappingKeySpec) ?? "an RSA key"}, which holds at most ${limit} bytes; ` +
        remedy(material.length, recipe, room),
    );
  }
}

/** Whether the word is of an algorithm that this library wraps with. */
export function wrapsWith(algorithm: string): algorithm is WrappingAlgorithm {
  return RECIPES.has(algorithm as WrappingAlgorithm);
}

/** Whether the word is of a spec that this library wraps under. */
export function wrapsUnder(spec: string): spec is WrappingKeySpec {
  return MODULUS_BYTES.has(spec as WrappingKeySpec);
}

/** Wraps by RFC 5649 under an AES key of any size. */
export function aesKeyWrap(aesKey: Uint8Array, material: Uint8Array): Uint8Array {
  const cipher = createCipheriv(`id-aes${aesKey.length * 8}-wrap-pad`, aesKey, KEY_WRAP_IV);
  return Buffer.concat([cipher.update(material), cipher.final()]);
}

/** RSAES-OAEP without a label. Node takes the hash for MGF1 as well, as KMS does. */
function oaep(key: KeyObject, { hash }: Recipe, plain: Uint8Array): Uint8Array {
  return publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: hash }, plain);
}

function recipeOf(algorithm: WrappingAlgorithm): Recipe {
  const recipe = RECIPES.get(algorithm);
  if (recipe === undefined) {
    throw new MaterialUnsuitable(`key material is not wrapped with ${algorithm}: ${REFUSALS.get(algorithm) ?? ""}`);
  }
  return recipe;
}

function bitsOf(key: KeyObject): number {
  return key.asymmetricKeyDetails?.modulusLength ?? 0;
}

function specOf(key: KeyObject): WrappingKeySpec | undefined {
  const bits = bitsOf(key);
  return [...MODULUS_BYTES].find(([, modulus]) => modulus * 8 === bits)?.[0];
}

/** The most bytes of key material; RFC 8017 section 7.1.1, and RFC 5649: eights, and eight more. */
function capacity({ aesKeyWrap, hashBytes }: Recipe, modulus: number): number {
  return aesKeyWrap ? Math.floor((WRAPPED_BYTES - modulus) / 8) * 8 - 8 : modulus - 2 * hashBytes - 2;
}

function remedy(size: number, { aesKeyWrap }: Recipe, room: ReadonlyMap<string, number>): string {
  if (aesKeyWrap) {
    return WRAPPED_LIMIT;
  }
  const wider = [...room].filter(([, limit]) => size <= limit).map(([spec, limit]) => `${spec} holds ${limit}`);
  return [...wider, "RSA_AES_KEY_WRAP holds an RSA or ECC private key of any size"].join(", ");
}
