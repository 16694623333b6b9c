package com.example.keyimport;

import com.example.keyimport.v1.ErrorReason;
import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;

/**
 * A request that did not succeed; its type says what can be done about it.
 *
 * <pre>
 * KeyImportException               everything below, and reasons newer than this library
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
 *   TryLater                       the same request can succeed after retryAfter()
 *     QuotaWaitExceedsDeadline  QuotaQueueFull  CallerRateExceeded  KmsThrottled  KmsUnavailable  BrokerCredentials
 *   OutcomeUnknown                 look at the key before trying again
 *   BrokerFault                    the broker's operators must act; correlationId() is for them
 *     KmsDeniedBroker  KmsBadResponse  Internal
 *   WrappingKeyRejected            found here: the broker's answer is not to be wrapped under
 *   MaterialUnsuitable             found here: this key material cannot be wrapped that way
 * </pre>
 */
public class KeyImportException extends RuntimeException {
    /** What there is to tell; {@code code}, {@code retryAfter}, {@code field} and {@code cause} may be null. */
    record Details(
            String message,
            String reason,
            Status.Code code,
            Duration retryAfter,
            String field,
            Map<String, String> metadata,
            Throwable cause) {
        /** Of an error that this library found itself. */
        static Details here(String message) {
            return new Details(message, "", null, null, null, Map.of(), null);
        }
    }

    private final Details details;

    KeyImportException(Details details) {
        super(details.message(), details.cause());
        this.details = details;
    }

    /**
     * Which refusal it is.
     *
     * @return the bare word of an {@link ErrorReason}, or an empty string if the broker sent none
     */
    public final String reason() {
        return details.reason();
    }

    /**
     * The status of the call.
     *
     * @return empty where this library itself raised the error
     */
    public final Optional<Status.Code> code() {
        return Optional.ofNullable(details.code());
    }

    /**
     * How long to wait before the same request can succeed.
     *
     * @return empty if the broker did not say so
     */
    public final Optional<Duration> retryAfter() {
        return Optional.ofNullable(details.retryAfter());
    }

    /**
     * The field of the request at fault.
     *
     * @return the name the API has for it; empty if no one field is
     */
    public final Optional<String> field() {
        return Optional.ofNullable(details.field());
    }

    /**
     * The broker's further particulars.
     *
     * @return by name, such as {@code suitable}
     */
    public final Map<String, String> metadata() {
        return details.metadata();
    }

    /**
     * What finds this very request in the broker's log.
     *
     * @return empty if the broker did not say
     */
    public final Optional<String> correlationId() {
        return Optional.ofNullable(metadata().get("correlation_id"));
    }

    /** The typed form of a refusal. The switch is exhaustive: a reason without a type does not compile. */
    static KeyImportException of(Details details) {
        var known = ErrorReason.getDescriptor().findValueByName("ERROR_REASON_" + details.reason());
        return switch (known == null ? ErrorReason.UNRECOGNIZED : ErrorReason.valueOf(known)) {
            case ERROR_REASON_KEY_ID_MALFORMED -> new KeyIdMalformed(details);
            case ERROR_REASON_ALIAS_NOT_ALLOWED -> new AliasNotAllowed(details);
            case ERROR_REASON_REQUEST_MALFORMED -> new RequestMalformed(details);
            case ERROR_REASON_REGION_NOT_SERVED -> new RegionNotServed(details);
            case ERROR_REASON_WRAPPING_ALGORITHM_DEPRECATED -> new WrappingAlgorithmDeprecated(details);
            case ERROR_REASON_WRAPPING_ALGORITHM_NOT_ALLOWED -> new WrappingAlgorithmNotAllowed(details);
            case ERROR_REASON_WRAPPING_KEY_SPEC_NOT_ALLOWED -> new WrappingKeySpecNotAllowed(details);
            case ERROR_REASON_WRAPPING_UNSUITABLE -> new WrappingUnsuitable(details);
            case ERROR_REASON_CALLER_UNAUTHENTICATED -> new CallerUnauthenticated(details);
            case ERROR_REASON_FOREIGN_ACCOUNT -> new ForeignAccount(details);
            case ERROR_REASON_CALLER_NOT_AUTHORIZED -> new CallerNotAuthorized(details);
            case ERROR_REASON_KEY_NOT_FOUND -> new KeyNotFound(details);
            case ERROR_REASON_KEY_NOT_EXTERNAL -> new KeyNotExternal(details);
            case ERROR_REASON_KEY_STATE_INCOMPATIBLE -> new KeyStateIncompatible(details);
            case ERROR_REASON_IMPORT_TOKEN_INVALID -> new ImportTokenInvalid(details);
            case ERROR_REASON_IMPORT_TOKEN_EXPIRED -> new ImportTokenExpired(details);
            case ERROR_REASON_KEY_MATERIAL_MISMATCH -> new KeyMaterialMismatch(details);
            case ERROR_REASON_KEY_MATERIAL_UNREADABLE -> new KeyMaterialUnreadable(details);
            case ERROR_REASON_QUOTA_WAIT_EXCEEDS_DEADLINE -> new QuotaWaitExceedsDeadline(details);
            case ERROR_REASON_QUOTA_QUEUE_FULL -> new QuotaQueueFull(details);
            case ERROR_REASON_KMS_THROTTLED -> new KmsThrottled(details);
            case ERROR_REASON_KMS_UNAVAILABLE -> new KmsUnavailable(details);
            case ERROR_REASON_BROKER_CREDENTIALS -> new BrokerCredentials(details);
            case ERROR_REASON_KMS_DENIED_BROKER -> new KmsDeniedBroker(details);
            case ERROR_REASON_OUTCOME_UNKNOWN -> new OutcomeUnknown(details);
            case ERROR_REASON_KMS_BAD_RESPONSE -> new KmsBadResponse(details);
            case ERROR_REASON_INTERNAL -> new Internal(details);
            case ERROR_REASON_CALLER_RATE_EXCEEDED -> new CallerRateExceeded(details);
            case ERROR_REASON_UNSPECIFIED, UNRECOGNIZED -> new KeyImportException(details);
        };
    }

    /** The request cannot be carried out as it stands. */
    public static class RequestRefused extends KeyImportException {
        RequestRefused(Details details) {
            super(details);
        }
    }

    /** The key id is neither a key id nor a key ARN. */
    public static final class KeyIdMalformed extends RequestRefused {
        KeyIdMalformed(Details details) {
            super(details);
        }
    }

    /** The key was named by an alias. */
    public static final class AliasNotAllowed extends RequestRefused {
        AliasNotAllowed(Details details) {
            super(details);
        }
    }

    /** Another field, named by {@link #field}, is missing, too long or out of range. */
    public static final class RequestMalformed extends RequestRefused {
        RequestMalformed(Details details) {
            super(details);
        }
    }

    /** The key is in a Region or partition this broker does not serve. */
    public static final class RegionNotServed extends RequestRefused {
        RegionNotServed(Details details) {
            super(details);
        }
    }

    /** The wrapping algorithm or wrapping key spec is refused. */
    public static class WrappingRefused extends RequestRefused {
        WrappingRefused(Details details) {
            super(details);
        }
    }

    /** The algorithm is out of date, and the broker's settings do not allow it by name. */
    public static final class WrappingAlgorithmDeprecated extends WrappingRefused {
        WrappingAlgorithmDeprecated(Details details) {
            super(details);
        }
    }

    /** The broker's policy does not allow this wrapping algorithm. */
    public static final class WrappingAlgorithmNotAllowed extends WrappingRefused {
        WrappingAlgorithmNotAllowed(Details details) {
            super(details);
        }
    }

    /** The broker's policy does not allow this wrapping key spec. */
    public static final class WrappingKeySpecNotAllowed extends WrappingRefused {
        WrappingKeySpecNotAllowed(Details details) {
            super(details);
        }
    }

    /** This kind of key cannot be wrapped so; {@code suitable} in {@link #metadata} is what it can be. */
    public static final class WrappingUnsuitable extends WrappingRefused {
        WrappingUnsuitable(Details details) {
            super(details);
        }
    }

    /** This caller may not do this. */
    public static class CallerRefused extends KeyImportException {
        CallerRefused(Details details) {
            super(details);
        }
    }

    /** The broker accepts no identity the caller has shown. */
    public static final class CallerUnauthenticated extends CallerRefused {
        CallerUnauthenticated(Details details) {
            super(details);
        }
    }

    /** The key belongs to another AWS account than the broker's. */
    public static final class ForeignAccount extends CallerRefused {
        ForeignAccount(Details details) {
            super(details);
        }
    }

    /** The caller has no right to this operation on this key, whether or not the key exists. */
    public static final class CallerNotAuthorized extends CallerRefused {
        CallerNotAuthorized(Details details) {
            super(details);
        }
    }

    /** The key cannot take imported key material now, or ever. */
    public static class KeyRefused extends KeyImportException {
        KeyRefused(Details details) {
            super(details);
        }
    }

    /** KMS knows no such key. */
    public static final class KeyNotFound extends KeyRefused {
        KeyNotFound(Details details) {
            super(details);
        }
    }

    /** The key was not created with origin EXTERNAL. */
    public static final class KeyNotExternal extends KeyRefused {
        KeyNotExternal(Details details) {
            super(details);
        }
    }

    /** The key's state does not allow it. */
    public static final class KeyStateIncompatible extends KeyRefused {
        KeyStateIncompatible(Details details) {
            super(details);
        }
    }

    /** The parameter set cannot be used; a new one can. */
    public static class ImportTokenRefused extends KeyImportException {
        ImportTokenRefused(Details details) {
            super(details);
        }
    }

    /** KMS does not accept the import token for this key. */
    public static final class ImportTokenInvalid extends ImportTokenRefused {
        ImportTokenInvalid(Details details) {
            super(details);
        }
    }

    /** The import token has expired. */
    public static final class ImportTokenExpired extends ImportTokenRefused {
        ImportTokenExpired(Details details) {
            super(details);
        }
    }

    /** KMS did not accept the key material. */
    public static class KeyMaterialRefused extends KeyImportException {
        KeyMaterialRefused(Details details) {
            super(details);
        }
    }

    /** The key material is not what this key takes. */
    public static final class KeyMaterialMismatch extends KeyMaterialRefused {
        KeyMaterialMismatch(Details details) {
            super(details);
        }
    }

    /** KMS could not unwrap the key material. */
    public static final class KeyMaterialUnreadable extends KeyMaterialRefused {
        KeyMaterialUnreadable(Details details) {
            super(details);
        }
    }

    /** Nothing is wrong with the request but its time. */
    public static class TryLater extends KeyImportException {
        TryLater(Details details) {
            super(details);
        }
    }

    /** The wait for KMS's quota is longer than the request's timeout. */
    public static final class QuotaWaitExceedsDeadline extends TryLater {
        QuotaWaitExceedsDeadline(Details details) {
            super(details);
        }
    }

    /** The line for KMS's quota is full. */
    public static final class QuotaQueueFull extends TryLater {
        QuotaQueueFull(Details details) {
            super(details);
        }
    }

    /** This caller sends more requests, or asks for more new keys, than its share. */
    public static final class CallerRateExceeded extends TryLater {
        CallerRateExceeded(Details details) {
            super(details);
        }
    }

    /** KMS refused for its quota. */
    public static final class KmsThrottled extends TryLater {
        KmsThrottled(Details details) {
            super(details);
        }
    }

    /** KMS is down or out of the broker's reach. */
    public static final class KmsUnavailable extends TryLater {
        KmsUnavailable(Details details) {
            super(details);
        }
    }

    /** The broker's own AWS credentials are missing or expired. */
    public static final class BrokerCredentials extends TryLater {
        BrokerCredentials(Details details) {
            super(details);
        }
    }

    /** An import or delete was sent and no answer came, to the broker or to this library (then there is no reason). */
    public static final class OutcomeUnknown extends KeyImportException {
        OutcomeUnknown(Details details) {
            super(details);
        }
    }

    /** The fault is the broker's. */
    public static class BrokerFault extends KeyImportException {
        BrokerFault(Details details) {
            super(details);
        }
    }

    /** The broker's AWS role lacks the KMS permission. */
    public static final class KmsDeniedBroker extends BrokerFault {
        KmsDeniedBroker(Details details) {
            super(details);
        }
    }

    /** KMS's answer failed the broker's checks. */
    public static final class KmsBadResponse extends BrokerFault {
        KmsBadResponse(Details details) {
            super(details);
        }
    }

    /** An error in the broker. */
    public static final class Internal extends BrokerFault {
        Internal(Details details) {
            super(details);
        }
    }

    /** The broker's answer is not what was asked for: nothing may be wrapped under its public key. */
    public static final class WrappingKeyRejected extends KeyImportException {
        WrappingKeyRejected(Details details) {
            super(details);
        }
    }

    /** The key material cannot be wrapped that way: nothing was sent. */
    public static final class MaterialUnsuitable extends KeyImportException {
        MaterialUnsuitable(Details details) {
            super(details);
        }
    }
}
