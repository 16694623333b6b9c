package com.example.keyimport;

import io.grpc.Context;
import io.grpc.Status;
import java.time.Duration;
import java.util.Optional;

/** Which failed call is made again, and after how long: one rule for every method of the client. */
final class Retry {
    private static final Duration FIRST_DELAY = Duration.ofMillis(100);
    private static final Duration LONGEST_DELAY = Duration.ofSeconds(2);
    private static final int DOUBLINGS = 5; // as many as reach LONGEST_DELAY
    private static final double LENGTHENED = 0.2;

    private Retry() {}

    /**
     * How long to wait before the same call is made again.
     *
     * @param error what the call ended with
     * @param attempt how many calls have been made, 1 or more
     * @param left what is left of the caller's timeout
     * @param random 0 to 1: by how much of a fifth the delay is lengthened, so that many callers do not return at once
     * @return empty where the call is not made again
     */
    static Optional<Duration> delay(KeyImportException error, int attempt, Duration left, double random) {
        return delay(error, attempt)
                .filter(delay ->
                        delay.compareTo(left) < 0) // also keeps a delay of centuries out of the arithmetic below
                .map(delay -> delay.plusNanos((long) (delay.toNanos() * LENGTHENED * random)))
                .filter(delay -> delay.compareTo(left) < 0);
    }

    private static Optional<Duration> delay(KeyImportException error, int attempt) {
        if (error instanceof KeyImportException.OutcomeUnknown) {
            return Optional.empty();
        }
        if (!error.reason().isEmpty()) {
            // A delay is the broker's word only beside a reason of the broker's. None at all would be a loop as fast as
            // the connection.
            return error.retryAfter().map(delay -> delay.compareTo(FIRST_DELAY) < 0 ? FIRST_DELAY : delay);
        }
        // Of a call that changes the key this would be OutcomeUnknown.
        if (isRestarting(Status.fromThrowable(error))) {
            var delay = FIRST_DELAY.multipliedBy(1L << Math.min(attempt - 1, DOUBLINGS));
            return Optional.of(delay.compareTo(LONGEST_DELAY) < 0 ? delay : LONGEST_DELAY);
        }
        return Optional.empty();
    }

    /** Whether the broker ended the call, or could not be reached, as while it restarts. */
    private static boolean isRestarting(Status status) {
        return switch (status.getCode()) {
            case UNAVAILABLE -> true;
            // A cause is of this side: the thread was interrupted, or the answer cannot be read. A cancelled Context
            // need not have one.
            case CANCELLED -> status.getCause() == null && !Context.current().isCancelled();
            default -> false;
        };
    }
}
