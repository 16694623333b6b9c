package com.example.keyimport;

import static com.example.keyimport.RefusalsTest.failure;
import static com.example.keyimport.RefusalsTest.info;
import static com.example.keyimport.RefusalsTest.retryAfter;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.google.protobuf.Any;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.EnumSet;
import java.util.List;
import java.util.Optional;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class RetryTest {
    private static final Duration LONG = Duration.ofSeconds(30);

    /** In milliseconds; -1 for no retry. */
    private static long delay(StatusRuntimeException cause, boolean changesKey, Duration left, double random) {
        return Retry.delay(Refusals.typed(cause, changesKey), 1, left, random)
                .map(Duration::toMillis)
                .orElse(-1L);
    }

    private static StatusRuntimeException refusal(long millis) {
        return failure(Status.Code.RESOURCE_EXHAUSTED, info("KMS_THROTTLED"), retryAfter(millis));
    }

    @Test
    void followsTheBrokersDelayImportsIncluded() {
        assertEquals(1500, delay(refusal(1500), false, LONG, 0));
        assertEquals(1500, delay(refusal(1500), true, LONG, 0));
    }

    @Test
    void lengthensByUpToAFifth() {
        assertEquals(1100, delay(refusal(1000), true, LONG, 0.5));
        assertEquals(1200, delay(refusal(1000), true, LONG, 1));
    }

    @Test
    void makesNoBusyLoopOfNoDelay() {
        assertEquals(100, delay(refusal(0), true, LONG, 0));
    }

    @Test
    void givesUpWhereTheDelayIsLongerThanTheTimeLeft() {
        assertEquals(-1, delay(refusal(1000), false, Duration.ofMillis(999), 0));
        assertEquals(-1, delay(refusal(1000), false, Duration.ofMillis(1100), 1));
        assertEquals(1100, delay(refusal(1000), false, Duration.ofMillis(1101), 0.5));
        assertEquals(-1, delay(refusal(1000), false, Duration.ofMillis(-1), 0));
        assertEquals(-1, delay(refusal(300_000_000_000_000L), false, LONG, 1));
    }

    @Test
    void backsOffWhileTheBrokerIsAwayUnlessTheCallChangesTheKey() {
        for (var status : List.of(Status.UNAVAILABLE, Status.CANCELLED)) {
            var bare = status.asRuntimeException();
            var delays = IntStream.rangeClosed(1, 7)
                    .mapToObj(attempt -> Retry.delay(Refusals.typed(bare, false), attempt, LONG, 0))
                    .map(Optional::orElseThrow)
                    .map(Duration::toMillis)
                    .toList();
            assertEquals(List.of(100L, 200L, 400L, 800L, 1600L, 2000L, 2000L), delays);
            assertEquals(
                    2000,
                    Retry.delay(Refusals.typed(bare, false), 1_000_000, LONG, 0)
                            .orElseThrow()
                            .toMillis());
            assertEquals(-1, delay(bare, true, LONG, 0));
        }
    }

    @Test
    void takesWhatWasCancelledHereForNoRestart() {
        var here = Status.CANCELLED.withCause(new InterruptedException()).asRuntimeException();
        assertEquals(-1, delay(here, false, LONG, 0));
        var context = Context.current().withCancellation();
        context.cancel(null);
        context.run(() -> assertEquals(-1, delay(Status.CANCELLED.asRuntimeException(), false, LONG, 0)));
    }

    @Test
    void triesNothingElseAgain() {
        for (var code : Status.Code.values()) {
            if (!EnumSet.of(Status.Code.OK, Status.Code.UNAVAILABLE, Status.Code.CANCELLED)
                    .contains(code)) {
                assertEquals(-1, delay(code.toStatus().asRuntimeException(), false, LONG, 0), code.name());
            }
            assertEquals(-1, delay(failure(code, info("KMS_UNAVAILABLE")), false, LONG, 0), code.name());
        }
        // Not the broker's word.
        assertEquals(-1, delay(failure(Status.Code.RESOURCE_EXHAUSTED, Any.pack(retryAfter(1))), true, LONG, 0));
        assertEquals(-1, delay(failure(Status.Code.UNAVAILABLE, Any.pack(retryAfter(1))), true, LONG, 0));
        // Whatever comes with it.
        assertEquals(-1, delay(failure(Status.Code.UNKNOWN, info("OUTCOME_UNKNOWN"), retryAfter(1)), true, LONG, 0));
    }
}
