/**
 * Parameter sets, which are looked at before anything is wrapped under them.
 *
 * @module
 */
import { createHash } from "node:crypto";

import { timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";

import { WrappingKeyRejected } from "./errors.js";
import {
  ParametersSourceSchema,
  WrappingAlgorithmSchema,
  WrappingKeySpecSchema,
  type GetParametersForImportResponse,
} from "./gen/keyimport/v1/key_import_pb.js";
import { wordOf } from "./words.js";
import {
  checkPublicKey,
  wrap,
  wrapsUnder,
  wrapsWith,
  type WrappingAlgorithm,
  type WrappingChoice,
  type WrappingKey,
  type WrappingKeySpec,
} from "./wrapping.js";

// The years 1 to 9999.
const FIRST_SECOND = -62_135_596_800n;
const LAST_SECOND = 253_402_300_799n;

/** What a parameter set was asked for with. */
export interface Asked extends WrappingChoice {
  readonly keyId: string;
}

/** A parameter set that has been checked. Its public key and import token belong together. */
export class Parameters implements WrappingKey {
  /** The key's ARN. */
  readonly keyArn: string;
  /** The wrapping public key, DER SubjectPublicKeyInfo. */
  readonly publicKey: Uint8Array;
  /** When KMS stops accepting the token. */
  readonly parametersValidTo: Date;
  /** What to wrap with. */
  readonly wrappingAlgorithm: WrappingAlgorithm;
  /** The kind and size of `publicKey`. */
  readonly wrappingKeySpec: WrappingKeySpec;
  /** SHA-256 of `publicKey`, 32 bytes. */
  readonly publicKeySha256: Uint8Array;
  /** Where the broker had the set from: `KMS`, `CACHE`, `STORE`, or what newer brokers say. */
  readonly source: string;
  // Private, so that nothing that prints or copies the properties of an object comes by it.
  readonly #importToken: Uint8Array;

  /**
   * Checks a broker's answer.
   *
   * @throws {@link WrappingKeyRejected} if it contradicts itself or what was asked for.
   */
  constructor(answer: GetParametersForImportResponse, asked: Asked) {
    const algorithm = wordOf(WrappingAlgorithmSchema, answer.wrappingAlgorithm);
    const spec = wordOf(WrappingKeySpecSchema, answer.wrappingKeySpec);
    const validTo = dateOf(answer.parametersValidTo);
    if (!namesKey(answer.keyArn, asked.keyId)) {
      throw rejected(`it is for ${JSON.stringify(answer.keyArn)}, not for ${JSON.stringify(asked.keyId)}`);
    }
    if (algorithm !== (asked.wrappingAlgorithm ?? algorithm)) {
      throw rejected(`${algorithm} is not the wrapping algorithm asked for`);
    }
    if (spec !== (asked.wrappingKeySpec ?? spec)) {
      throw rejected(`${spec} is not the wrapping key spec asked for`);
    }
    if (!wrapsWith(algorithm)) {
      throw rejected(`this library does not wrap with ${algorithm}`);
    }
    if (!wrapsUnder(spec)) {
      throw rejected(`this library does not wrap under a key of spec ${spec}`);
    }
    if (!createHash("sha256").update(answer.publicKey).digest().equals(answer.publicKeySha256)) {
      throw rejected("the public key has another SHA-256");
    }
    if (answer.importToken.length === 0) {
      throw rejected("the import token is empty");
    }
    if (validTo === undefined) {
      throw rejected("its expiry is no date");
    }
    if (validTo.getTime() <= Date.now()) {
      throw rejected(`it expired at ${validTo.toISOString()}`);
    }
    checkPublicKey(answer.publicKey, spec);
    this.keyArn = answer.keyArn;
    this.publicKey = answer.publicKey;
    this.parametersValidTo = validTo;
    this.wrappingAlgorithm = algorithm;
    this.wrappingKeySpec = spec;
    this.publicKeySha256 = answer.publicKeySha256;
    this.source = wordOf(ParametersSourceSchema, answer.source);
    this.#importToken = answer.importToken;
  }

  /** Opaque; goes with the key material wrapped under `publicKey`. Neither printing nor JSON shows it. */
  get importToken(): Uint8Array {
    return this.#importToken;
  }

  /** `publicKeySha256` as the broker's audit log shows it, in hexadecimal. */
  get fingerprint(): string {
    return Buffer.from(this.publicKeySha256).toString("hex");
  }

  /**
   * Wraps key material for import with this set.
   *
   * @throws `MaterialUnsuitable` if it does not fit.
   */
  wrap(material: Uint8Array): Uint8Array {
    return wrap(material, this);
  }
}

/** Whether the ARN is the asked one or, if a bare key id was asked for, ends in that. */
export function namesKey(keyArn: string, keyId: string): boolean {
  return keyArn === keyId || (!keyId.startsWith("arn:") && keyArn.endsWith(`:key/${keyId}`));
}

/** The time, to the millisecond; undefined if it is none that google.protobuf.Timestamp allows. */
export function dateOf(timestamp: Timestamp | undefined): Date | undefined {
  if (timestamp === undefined || timestamp.nanos < 0 || timestamp.nanos >= 1_000_000_000) {
    return undefined;
  }
  const inRange = timestamp.seconds >= FIRST_SECOND && timestamp.seconds <= LAST_SECOND;
  return inRange ? timestampDate(timestamp) : undefined;
}

function rejected(objection: string): WrappingKeyRejected {
  return new WrappingKeyRejected(`the broker's answer is refused: ${objection}`);
}
