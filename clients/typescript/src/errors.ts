/**
 * What can go wrong with an import: one class for each reason, so that a caller can catch exactly what it can mend.
 *
 * ```
 * KeyImportError                   everything below, and reasons newer than this library
 *   RequestRefused                 ask differently
 *     KeyIdMalformed  AliasNotAllowed  RequestMalformed  RegionNotServed
 *     WrappingRefused              another wrapping algorithm or wrapping key spec
 *       WrappingAlgorithmDeprecated  WrappingAlgorithmNotAllowed  WrappingKeySpecNotAllowed  WrappingUnsuitable
 *   CallerRefused                  be someone else, or be granted more
 *     CallerUnauthenticated  CallerNotAuthorized  ForeignAccount
 *   KeyRefused                     another key, or this key in another state
 *     KeyNotFound  KeyNotExternal  KeyStateIncompatible
 *   ImportTokenRefused             get new parameters and wrap again
 *     ImportTokenInvalid  ImportTokenExpired
 *   KeyMaterialRefused             other key material, or wrapped otherwise
 *     KeyMaterialMismatch  KeyMaterialUnreadable
 *   TryLater                       the same request can succeed after `retryAfterMs`
 *     QuotaWaitExceedsDeadline  QuotaQueueFull  CallerRateExceeded  KmsThrottled  KmsUnavailable  BrokerCredentials
 *   OutcomeUnknown                 look at the key before trying again
 *   BrokerFault                    the broker's operators must act; `correlationId` is for them
 *     KmsDeniedBroker  KmsBadResponse  Internal
 *   WrappingKeyRejected            found here: the broker's answer is not to be wrapped under
 *   MaterialUnsuitable             found here: this key material cannot be wrapped that way
 * ArgumentError                    a misuse of this library; nothing was sent
 * ```
 *
 * @module
 */
import type { status } from "@grpc/grpc-js";

/** What is known of a failed request beside its message. */
export interface ErrorParticulars extends ErrorOptions {
  readonly reason?: string;
  readonly code?: keyof typeof status;
  readonly field?: string | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A request that did not succeed. The message is one sentence, fit to be shown. */
export class KeyImportError extends Error {
  /** The bare word of an `ErrorReason`, or `""` if the broker sent none. */
  readonly reason: string;
  /** The gRPC status of the call; undefined where this library itself refused. */
  readonly code: keyof typeof status | undefined;
  /** The request's field at fault, if one is. */
  readonly field: string | undefined;
  /** How many milliseconds to wait before the same request can succeed, if the broker said so. */
  readonly retryAfterMs: number | undefined;
  /** The broker's further particulars, such as `suitable`. */
  readonly metadata: Readonly<Record<string, string>>;

  constructor(message: string, { reason, code, field, retryAfterMs, metadata, ...options }: ErrorParticulars = {}) {
    super(message, options);
    this.name = new.target.name;
    this.reason = reason ?? "";
    this.code = code;
    this.field = field;
    this.retryAfterMs = retryAfterMs;
    this.metadata = { ...metadata };
  }

  /** What finds this very request in the broker's log, if the broker said so. */
  get correlationId(): string | undefined {
    return this.metadata["correlation_id"];
  }
}

type WrappingReason =
  | "WRAPPING_ALGORITHM_DEPRECATED"
  | "WRAPPING_ALGORITHM_NOT_ALLOWED"
  | "WRAPPING_KEY_SPEC_NOT_ALLOWED"
  | "WRAPPING_UNSUITABLE";

// Each class declares its reasons: they tell its instances apart for the compiler too, which compares shapes.

/** The request cannot be carried out as it stands. */
export class RequestRefused extends KeyImportError {
  declare readonly reason:
    "KEY_ID_MALFORMED" | "ALIAS_NOT_ALLOWED" | "REQUEST_MALFORMED" | "REGION_NOT_SERVED" | WrappingReason;
}
/** The key id is neither a key id nor a key ARN. */
export class KeyIdMalformed extends RequestRefused {
  declare readonly reason: "KEY_ID_MALFORMED";
}
/** The key was named by an alias. */
export class AliasNotAllowed extends RequestRefused {
  declare readonly reason: "ALIAS_NOT_ALLOWED";
}
/** Another field, named in `field`, is missing, too long or out of range. */
export class RequestMalformed extends RequestRefused {
  declare readonly reason: "REQUEST_MALFORMED";
}
/** The key is in a Region or partition this broker does not serve. */
export class RegionNotServed extends RequestRefused {
  declare readonly reason: "REGION_NOT_SERVED";
}
/** The wrapping algorithm or wrapping key spec is refused. */
export class WrappingRefused extends RequestRefused {
  declare readonly reason: WrappingReason;
}
/** The algorithm is out of date, and the broker's settings do not allow it by name. */
export class WrappingAlgorithmDeprecated extends WrappingRefused {
  declare readonly reason: "WRAPPING_ALGORITHM_DEPRECATED";
}
/** The broker's policy does not allow this wrapping algorithm. */
export class WrappingAlgorithmNotAllowed extends WrappingRefused {
  declare readonly reason: "WRAPPING_ALGORITHM_NOT_ALLOWED";
}
/** The broker's policy does not allow this wrapping key spec. */
export class WrappingKeySpecNotAllowed extends WrappingRefused {
  declare readonly reason: "WRAPPING_KEY_SPEC_NOT_ALLOWED";
}
/** This kind of key cannot be wrapped so; `metadata` says under `suitable` what can be. */
export class WrappingUnsuitable extends WrappingRefused {
  declare readonly reason: "WRAPPING_UNSUITABLE";
}

/** This caller may not do this. */
export class CallerRefused extends KeyImportError {
  declare readonly reason: "CALLER_UNAUTHENTICATED" | "FOREIGN_ACCOUNT" | "CALLER_NOT_AUTHORIZED";
}
/** The broker accepts no identity the caller has shown. */
export class CallerUnauthenticated extends CallerRefused {
  declare readonly reason: "CALLER_UNAUTHENTICATED";
}
/** The key belongs to another AWS account than the broker's. */
export class ForeignAccount extends CallerRefused {
  declare readonly reason: "FOREIGN_ACCOUNT";
}
/** The caller has no right to this operation on this key, whether or not the key exists. */
export class CallerNotAuthorized extends CallerRefused {
  declare readonly reason: "CALLER_NOT_AUTHORIZED";
}

/** The key cannot take imported key material now, or ever. */
export class KeyRefused extends KeyImportError {
  declare readonly reason: "KEY_NOT_FOUND" | "KEY_NOT_EXTERNAL" | "KEY_STATE_INCOMPATIBLE";
}
/** KMS knows no such key. */
export class KeyNotFound extends KeyRefused {
  declare readonly reason: "KEY_NOT_FOUND";
}
/** The key was not created with origin EXTERNAL. */
export class KeyNotExternal extends KeyRefused {
  declare readonly reason: "KEY_NOT_EXTERNAL";
}
/** The key's state does not allow it. */
export class KeyStateIncompatible extends KeyRefused {
  declare readonly reason: "KEY_STATE_INCOMPATIBLE";
}

/** The parameter set cannot be used; a new one can. */
export class ImportTokenRefused extends KeyImportError {
  declare readonly reason: "IMPORT_TOKEN_INVALID" | "IMPORT_TOKEN_EXPIRED";
}
/** KMS does not accept the import token for this key. */
export class ImportTokenInvalid extends ImportTokenRefused {
  declare readonly reason: "IMPORT_TOKEN_INVALID";
}
/** The import token has expired. */
export class ImportTokenExpired extends ImportTokenRefused {
  declare readonly reason: "IMPORT_TOKEN_EXPIRED";
}

/** KMS did not accept the key material. */
export class KeyMaterialRefused extends KeyImportError {
  declare readonly reason: "KEY_MATERIAL_MISMATCH" | "KEY_MATERIAL_UNREADABLE";
}
/** The key material is not what this key takes. */
export class KeyMaterialMismatch extends KeyMaterialRefused {
  declare readonly reason: "KEY_MATERIAL_MISMATCH";
}
/** KMS could not unwrap the key material. */
export class KeyMaterialUnreadable extends KeyMaterialRefused {
  declare readonly reason: "KEY_MATERIAL_UNREADABLE";
}

/** Nothing is wrong with the request but its time. */
export class TryLater extends KeyImportError {
  declare readonly reason:
    | "QUOTA_WAIT_EXCEEDS_DEADLINE"
    | "QUOTA_QUEUE_FULL"
    | "CALLER_RATE_EXCEEDED"
    | "KMS_THROTTLED"
    | "KMS_UNAVAILABLE"
    | "BROKER_CREDENTIALS";
}
/** The wait for KMS's quota is longer than the request's timeout. */
export class QuotaWaitExceedsDeadline extends TryLater {
  declare readonly reason: "QUOTA_WAIT_EXCEEDS_DEADLINE";
}
/** The line for KMS's quota is full. */
export class QuotaQueueFull extends TryLater {
  declare readonly reason: "QUOTA_QUEUE_FULL";
}
/** This caller sends more requests, or asks for more new keys, than its share. */
export class CallerRateExceeded extends TryLater {
  declare readonly reason: "CALLER_RATE_EXCEEDED";
}
/** KMS refused for its quota. */
export class KmsThrottled extends TryLater {
  declare readonly reason: "KMS_THROTTLED";
}
/** KMS is down or out of the broker's reach. */
export class KmsUnavailable extends TryLater {
  declare readonly reason: "KMS_UNAVAILABLE";
}
/** The broker's own AWS credentials are missing or expired. */
export class BrokerCredentials extends TryLater {
  declare readonly reason: "BROKER_CREDENTIALS";
}

/** An import or delete was sent and no answer came, to the broker or to this library (then `reason` is empty). */
export class OutcomeUnknown extends KeyImportError {
  declare readonly reason: "OUTCOME_UNKNOWN" | "";
}

/** The fault is the broker's. */
export class BrokerFault extends KeyImportError {
  declare readonly reason: "KMS_DENIED_BROKER" | "KMS_BAD_RESPONSE" | "INTERNAL";
}
/** The broker's AWS role lacks the KMS permission. */
export class KmsDeniedBroker extends BrokerFault {
  declare readonly reason: "KMS_DENIED_BROKER";
}
/** KMS's answer failed the broker's checks. */
export class KmsBadResponse extends BrokerFault {
  declare readonly reason: "KMS_BAD_RESPONSE";
}
/** An error in the broker. */
export class Internal extends BrokerFault {
  declare readonly reason: "INTERNAL";
}

/** The broker's answer is not what was asked for: nothing may be wrapped under its public key. */
export class WrappingKeyRejected extends KeyImportError {
  declare readonly reason: "";
  declare readonly code: undefined;
}
/** The key material cannot be wrapped that way: nothing was imported. */
export class MaterialUnsuitable extends KeyImportError {
  declare readonly reason: "";
  declare readonly code: undefined;
}

/** A misuse of this library, such as two expirations, or plain text to another host. Nothing was sent. */
export class ArgumentError extends TypeError {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}
