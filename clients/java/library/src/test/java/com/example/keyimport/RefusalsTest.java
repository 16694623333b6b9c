package com.example.keyimport;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.example.keyimport.KeyImportException.OutcomeUnknown;
import com.example.keyimport.v1.ErrorReason;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Arrays;
import java.util.Optional;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.EnumSource.Mode;

class RefusalsTest {
    static ErrorInfo info(String reason) {
        return ErrorInfo.newBuilder().setDomain("keyimport").setReason(reason).build();
    }

    static RetryInfo retryAfter(long millis) {
        return RetryInfo.newBuilder()
                .setRetryDelay(Times.duration(Duration.ofMillis(millis)))
                .build();
    }

    static StatusRuntimeException failure(Status.Code code, Message... details) {
        return failure(code, Arrays.stream(details).map(Any::pack).toArray(Any[]::new));
    }

    static StatusRuntimeException failure(Status.Code code, Any... details) {
        var status = com.google.rpc.Status.newBuilder()
                .addAllDetails(Arrays.asList(details))
                .build();
        return failure(code, status.toByteArray());
    }

    private static StatusRuntimeException failure(Status.Code code, byte[] blob) {
        var trailers = new Metadata();
        trailers.put(Refusals.DETAILS, blob);
        return code.toStatus().withDescription("A sentence.").asRuntimeException(trailers);
    }

    @ParameterizedTest
    @EnumSource(
            value = ErrorReason.class,
            names = {"ERROR_REASON_UNSPECIFIED", "UNRECOGNIZED"},
            mode = Mode.EXCLUDE)
    void givesEachReasonATypeOfItsName(ErrorReason reason) {
        var word = reason.name().substring("ERROR_REASON_".length());
        var name = Arrays.stream(word.split("_"))
                .map(part -> part.charAt(0) + part.substring(1).toLowerCase())
                .collect(Collectors.joining());
        var error = Refusals.typed(failure(Status.Code.INTERNAL, info(word)), false);
        assertEquals(name, error.getClass().getSimpleName());
        assertEquals(word, error.reason());
    }

    @Test
    void tellsAllThatTheBrokerTold() {
        var violation = BadRequest.FieldViolation.newBuilder().setField("key_id");
        var cause = failure(
                Status.Code.RESOURCE_EXHAUSTED,
                BadRequest.newBuilder().addFieldViolations(violation).build(),
                retryAfter(1500),
                info("QUOTA_QUEUE_FULL").toBuilder()
                        .putMetadata("correlation_id", "c")
                        .build());
        var error = Refusals.typed(cause, true);
        assertInstanceOf(KeyImportException.TryLater.class, error);
        assertEquals("A sentence.", error.getMessage());
        assertEquals(Optional.of(Status.Code.RESOURCE_EXHAUSTED), error.code());
        assertEquals(Optional.of(Duration.ofMillis(1500)), error.retryAfter());
        assertEquals(Optional.of("key_id"), error.field());
        assertEquals(Optional.of("c"), error.correlationId());
        assertSame(cause, error.getCause());
    }

    @Test
    void keepsAReasonItDoesNotKnow() {
        for (var reason : new String[] {"NEWER_THAN_THIS", "UNSPECIFIED", "key_not_found"}) {
            var error = Refusals.typed(failure(Status.Code.UNAVAILABLE, info(reason)), true);
            assertSame(KeyImportException.class, error.getClass());
            assertEquals(reason, error.reason());
        }
    }

    @Test
    void passesOverAForeignDomain() {
        var foreign = info("KEY_NOT_FOUND").toBuilder()
                .setDomain("example.com")
                .putMetadata("a", "b")
                .build();
        var error = Refusals.typed(failure(Status.Code.NOT_FOUND, foreign), true);
        assertSame(KeyImportException.class, error.getClass());
        assertEquals("", error.reason());
        assertTrue(error.metadata().isEmpty());
        assertInstanceOf(OutcomeUnknown.class, Refusals.typed(failure(Status.Code.UNAVAILABLE, foreign), true));
        var both = Refusals.typed(failure(Status.Code.NOT_FOUND, info("KEY_NOT_FOUND"), foreign), true);
        assertInstanceOf(KeyImportException.KeyNotFound.class, both);
    }

    @Test
    void passesOverWhatIsDamaged() {
        var blob = new byte[] {(byte) 0xff, 1, 2, 3};
        assertSame(
                KeyImportException.class,
                Refusals.typed(failure(Status.Code.NOT_FOUND, blob), true).getClass());
        var damaged = Any.pack(info("KEY_NOT_FOUND")).toBuilder()
                .setValue(ByteString.copyFrom(blob))
                .build();
        var error = Refusals.typed(failure(Status.Code.UNAVAILABLE, damaged, Any.pack(info("KMS_UNAVAILABLE"))), true);
        assertInstanceOf(KeyImportException.KmsUnavailable.class, error);
    }

    @Test
    void passesOverADelayThatIsNone() {
        for (var seconds : new long[] {-1, Long.MIN_VALUE, Long.MAX_VALUE}) {
            var delay = com.google.protobuf.Duration.newBuilder().setSeconds(seconds);
            var retry = RetryInfo.newBuilder().setRetryDelay(delay).build();
            var error = Refusals.typed(failure(Status.Code.UNAVAILABLE, info("KMS_UNAVAILABLE"), retry), false);
            assertFalse(error.retryAfter().isPresent());
        }
    }

    @ParameterizedTest
    @EnumSource(value = Status.Code.class, names = "OK", mode = Mode.EXCLUDE)
    void leavesTheOutcomeOpenWhereAChangeBreaksOff(Status.Code code) {
        boolean open = switch (code) {
            case CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE -> true;
            default -> false;
        };
        var bare = code.toStatus().asRuntimeException();
        assertEquals(open, Refusals.typed(bare, true) instanceof OutcomeUnknown);
        assertFalse(Refusals.typed(bare, false) instanceof OutcomeUnknown);
        assertFalse(Refusals.typed(failure(code, info("KEY_NOT_FOUND")), true) instanceof OutcomeUnknown);
    }
}
