/**
 * What the client's methods take and give.
 *
 * @module
 */
import type { TlsOptions } from "./connection.js";
import type { ImportType as ImportTypeNumber, Sharing as SharingNumber } from "./gen/keyimport/v1/key_import_pb.js";
import type { WrappingChoice } from "./wrapping.js";

/** Who may be given a parameter set: every caller, or no other. */
export type Sharing = Exclude<keyof typeof SharingNumber, "UNSPECIFIED">;

/** Whether key material is new to a symmetric encryption key. */
export type ImportType = Exclude<keyof typeof ImportTypeNumber, "UNSPECIFIED">;

/** How long a call may take, and what ends it before. */
export interface CallOptions {
  /** Milliseconds that the method may take in all; the client's `timeoutMs` by default. */
  readonly timeoutMs?: number | undefined;
  /** Ends the method with the signal's reason, or with `OutcomeUnknown` if an import or delete was under way. */
  readonly signal?: AbortSignal | undefined;
}

/** Which parameter set is wanted; what is left out is left to the broker. */
export interface ParametersOptions extends WrappingChoice {
  /** The default is `SHARED`. */
  readonly sharing?: Sharing | undefined;
}

/** The same, and for how long it has to be good. */
export interface GetOptions extends ParametersOptions {
  /** The least time, up to 23 h, that the set must remain valid; the default is the broker's setting. */
  readonly minRemainingValidityMs?: number | undefined;
}

/** When the key material expires: exactly one of the two has to be chosen. */
export type Expiration =
  | { readonly validTo: Date; readonly neverExpires?: false | undefined }
  | { readonly neverExpires: true; readonly validTo?: undefined };

/** What an import says of the key material; all but the expiration is for symmetric encryption keys only. */
export type ImportOptions = Expiration & {
  /** Left out, it is left to KMS. */
  readonly importType?: ImportType | undefined;
  /** The id KMS gave to known key material, 64 lower-case hexadecimal digits. */
  readonly keyMaterialId?: string | undefined;
  /** A note stored with the key material, at most 256 characters. */
  readonly keyMaterialDescription?: string | undefined;
};

/** The key and key material that a request was about. */
export interface KeyMaterial {
  /** The key's ARN. */
  readonly keyArn: string;
  /** The id KMS gave to the key material; empty unless the key is a symmetric encryption key. */
  readonly keyMaterialId: string;
}

/** What was imported. */
export interface ImportedKeyMaterial extends KeyMaterial {
  /** SHA-256 of the public key it was wrapped under, 32 bytes. */
  readonly publicKeySha256: Uint8Array;
}

/** What an import depends on and changes. */
export interface KeyImportStatus {
  /** The key's ARN. */
  readonly keyArn: string;
  /** The key's spec in KMS's words, such as `SYMMETRIC_DEFAULT` or `RSA_2048`. */
  readonly keySpec: string;
  /** The key's state in KMS's words, such as `PendingImport` or `Enabled`. */
  readonly keyState: string;
  /** Whether the key takes imported key material: its origin is EXTERNAL. */
  readonly externalOrigin: boolean;
  /** When KMS deletes the key material; undefined if it holds none, or holds it for ever. */
  readonly materialValidTo: Date | undefined;
  /** Whether it is a multi-Region key; each replica needs the same key material imported. */
  readonly multiRegion: boolean;
}

/** How a client connects, and how long its methods may take. */
export interface ClientOptions {
  /** Mutual TLS; a tcp target needs it unless it is a loopback address. */
  readonly tls?: TlsOptions | undefined;
  /** Milliseconds that a method may take in all, unless its own `timeoutMs` says otherwise; 30,000 by default. */
  readonly timeoutMs?: number | undefined;
}
