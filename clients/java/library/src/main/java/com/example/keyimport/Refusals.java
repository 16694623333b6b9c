package com.example.keyimport;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/** Failed calls made into {@link KeyImportException}s. */
final class Refusals {
    static final String DOMAIN = "keyimport";

    /** As bytes, since a damaged value must not be what is thrown. */
    static final Metadata.Key<byte[]> DETAILS =
            Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

    /** What gRPC makes up by itself when a call breaks off, so that nobody can say what became of the request. */
    private static final Set<Status.Code> BROKEN_OFF = Set.of(
            Status.Code.CANCELLED,
            Status.Code.UNKNOWN,
            Status.Code.DEADLINE_EXCEEDED,
            Status.Code.INTERNAL,
            Status.Code.UNAVAILABLE);

    private Refusals() {}

    /**
     * The typed form of a failed call.
     *
     * @param changesKey whether the call changes the key, so that breaking off leaves the outcome open
     */
    static KeyImportException typed(StatusRuntimeException error, boolean changesKey) {
        var code = error.getStatus().getCode();
        var message = message(error.getStatus());
        var info = ErrorInfo.getDefaultInstance();
        Duration retryAfter = null;
        String field = null;
        for (Any packed : details(error.getTrailers())) {
            // Only what the broker says of itself counts; a proxy between may have something to say as well.
            info = unpack(packed, ErrorInfo.class)
                    .filter(one -> one.getDomain().equals(DOMAIN))
                    .orElse(info);
            var retry = unpack(packed, RetryInfo.class);
            if (retry.isPresent()) {
                retryAfter = Times.duration(retry.get().getRetryDelay()).orElse(null);
            }
            var violations = unpack(packed, BadRequest.class)
                    .map(BadRequest::getFieldViolationsList)
                    .orElse(List.of());
            if (!violations.isEmpty()) {
                field = violations.get(0).getField();
            }
        }
        if (changesKey && info.getReason().isEmpty() && BROKEN_OFF.contains(code)) {
            message = "the call broke off (" + message + "); look at the key before trying again";
            return new KeyImportException.OutcomeUnknown(
                    new KeyImportException.Details(message, "", code, retryAfter, field, info.getMetadataMap(), error));
        }
        return KeyImportException.of(new KeyImportException.Details(
                message, info.getReason(), code, retryAfter, field, info.getMetadataMap(), error));
    }

    /** The broker's sentence; or, of a call that broke off, gRPC's words and what lay at the bottom of it. */
    private static String message(Status status) {
        var message = Optional.ofNullable(status.getDescription())
                .orElse(status.getCode().name());
        var bottom = status.getCause();
        while (bottom != null && bottom.getCause() != null) {
            bottom = bottom.getCause();
        }
        if (bottom == null || bottom.getMessage() == null) {
            return message;
        }
        // Where there is a cause, Netty appends lines about its own insides.
        return message.lines().findFirst().orElse("") + ": " + bottom.getMessage();
    }

    private static List<Any> details(Metadata trailers) {
        var blob = trailers == null ? null : trailers.get(DETAILS);
        try {
            return blob == null
                    ? List.of()
                    : com.google.rpc.Status.parseFrom(blob).getDetailsList();
        } catch (InvalidProtocolBufferException damaged) {
            return List.of();
        }
    }

    private static <T extends Message> Optional<T> unpack(Any packed, Class<T> type) {
        try {
            return packed.is(type) ? Optional.of(packed.unpack(type)) : Optional.empty();
        } catch (InvalidProtocolBufferException damaged) {
            return Optional.empty();
        }
    }
}
