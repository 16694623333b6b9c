/**
 * Failed calls, as gRPC reports them, turned into this library's errors.
 *
 * @module
 */
import { Metadata, status, type ServiceError } from "@grpc/grpc-js";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, type Duration } from "@bufbuild/protobuf/wkt";

import * as errors from "./errors.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import type { ErrorReason } from "./gen/keyimport/v1/key_import_pb.js";

const DOMAIN = "keyimport";
const DETAILS = "grpc-status-details-bin";

type ErrorClass = new (message: string, particulars?: errors.ErrorParticulars) => errors.KeyImportError;

// Complete, or it does not compile: a reason that is new in the proto needs a class.
const CLASSES: Readonly<Record<Exclude<keyof typeof ErrorReason, "UNSPECIFIED">, ErrorClass>> = {
  KEY_ID_MALFORMED: errors.KeyIdMalformed,
  ALIAS_NOT_ALLOWED: errors.AliasNotAllowed,
  REQUEST_MALFORMED: errors.RequestMalformed,
  REGION_NOT_SERVED: errors.RegionNotServed,
  WRAPPING_ALGORITHM_DEPRECATED: errors.WrappingAlgorithmDeprecated,
  WRAPPING_ALGORITHM_NOT_ALLOWED: errors.WrappingAlgorithmNotAllowed,
  WRAPPING_KEY_SPEC_NOT_ALLOWED: errors.WrappingKeySpecNotAllowed,
  WRAPPING_UNSUITABLE: errors.WrappingUnsuitable,
  CALLER_UNAUTHENTICATED: errors.CallerUnauthenticated,
  FOREIGN_ACCOUNT: errors.ForeignAccount,
  CALLER_NOT_AUTHORIZED: errors.CallerNotAuthorized,
  KEY_NOT_FOUND: errors.KeyNotFound,
  KEY_NOT_EXTERNAL: errors.KeyNotExternal,
  KEY_STATE_INCOMPATIBLE: errors.KeyStateIncompatible,
  IMPORT_TOKEN_INVALID: errors.ImportTokenInvalid,
  IMPORT_TOKEN_EXPIRED: errors.ImportTokenExpired,
  KEY_MATERIAL_MISMATCH: errors.KeyMaterialMismatch,
  KEY_MATERIAL_UNREADABLE: errors.KeyMaterialUnreadable,
  QUOTA_WAIT_EXCEEDS_DEADLINE: errors.QuotaWaitExceedsDeadline,
  QUOTA_QUEUE_FULL: errors.QuotaQueueFull,
  KMS_THROTTLED: errors.KmsThrottled,
  KMS_UNAVAILABLE: errors.KmsUnavailable,
  BROKER_CREDENTIALS: errors.BrokerCredentials,
  KMS_DENIED_BROKER: errors.KmsDeniedBroker,
  OUTCOME_UNKNOWN: errors.OutcomeUnknown,
  KMS_BAD_RESPONSE: errors.KmsBadResponse,
  INTERNAL: errors.Internal,
  CALLER_RATE_EXCEEDED: errors.CallerRateExceeded,
};
// A Map, because the broker's word is looked up in it, and that may be "constructor".
const CLASS_BY_REASON: ReadonlyMap<string, ErrorClass> = new Map(Object.entries(CLASSES));

// Statuses that gRPC makes up by itself when a call breaks off, so that nobody can say what became of the request.
const BROKEN_OFF: ReadonlySet<status> = new Set([
  status.CANCELLED,
  status.UNKNOWN,
  status.DEADLINE_EXCEEDED,
  status.INTERNAL,
  status.UNAVAILABLE,
]);

/** Whether it is what gRPC reports of a failed call. */
export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "metadata" in error && error.metadata instanceof Metadata;
}

/**
 * The typed form of a failed call.
 *
 * @param failure - what gRPC reports.
 * @param changesKey - whether the call changes the key, so that breaking off leaves the outcome open.
 */
export function fromRpc(
  failure: Pick<ServiceError, "code" | "details" | "metadata">,
  changesKey: boolean,
): errors.KeyImportError {
  // A number that gRPC does not know stands for UNKNOWN, says gRPC.
  const number = failure.code in status ? failure.code : status.UNKNOWN;
  const code = status[number] as keyof typeof status;
  const message = failure.details || code;
  const { reason = "", ...particulars } = details(failure.metadata.get(DETAILS)[0]);
  if (changesKey && reason === "" && BROKEN_OFF.has(number)) {
    return new errors.OutcomeUnknown(`the call broke off (${message}); look at the key before trying again`, {
      ...particulars,
      code,
      cause: failure,
    });
  }
  const ErrorClass = CLASS_BY_REASON.get(reason) ?? errors.KeyImportError;
  return new ErrorClass(message, { ...particulars, reason, code, cause: failure });
}

/** What can be read of the status details; what is damaged or of a foreign type is passed over. */
function details(blob: string | Buffer | undefined): errors.ErrorParticulars {
  const packed =
    (blob instanceof Uint8Array ? readable(() => fromBinary(StatusSchema, blob))?.details : undefined) ?? [];
  let particulars: errors.ErrorParticulars = {};
  for (const detail of packed) {
    const info = readable(() => anyUnpack(detail, ErrorInfoSchema));
    const retry = readable(() => anyUnpack(detail, RetryInfoSchema));
    const violation = readable(() => anyUnpack(detail, BadRequestSchema))?.fieldViolations[0];
    if (info?.domain === DOMAIN) {
      particulars = { ...particulars, reason: info.reason, metadata: info.metadata };
    } else if (retry?.retryDelay) {
      particulars = { ...particulars, retryAfterMs: milliseconds(retry.retryDelay) };
    } else if (violation) {
      particulars = { ...particulars, field: violation.field };
    }
  }
  return particulars;
}

function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** What google.protobuf.Duration allows, and not negative. */
function milliseconds({ seconds, nanos }: Duration): number | undefined {
  const valid = seconds >= 0n && seconds <= 315_576_000_000n && nanos >= 0 && nanos < 1_000_000_000;
  return valid ? Number(seconds) * 1000 + nanos / 1_000_000 : undefined;
}
