package com.example.keyimport;

import com.google.protobuf.Timestamp;
import java.time.Duration;
import java.time.Instant;
import java.util.Optional;

/** Times as java.time has them and as protobuf has them. */
final class Times {
    /** 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, between which a Timestamp is a date. */
    private static final long FIRST_SECOND = -62_135_596_800L;

    private static final long LAST_SECOND = 253_402_300_799L;
    private static final int LAST_NANO = 999_999_999;

    private Times() {}

    static Timestamp timestamp(Instant instant) {
        return Timestamp.newBuilder()
                .setSeconds(instant.getEpochSecond())
                .setNanos(instant.getNano())
                .build();
    }

    static com.google.protobuf.Duration duration(Duration duration) {
        // Of a negative duration, protobuf wants both parts negative.
        long seconds =
                duration.isNegative() && duration.getNano() > 0 ? duration.getSeconds() + 1 : duration.getSeconds();
        return com.google.protobuf.Duration.newBuilder()
                .setSeconds(seconds)
                .setNanos(duration.minusSeconds(seconds).getNano() * (duration.isNegative() ? -1 : 1))
                .build();
    }

    /** Empty if it is no date. */
    static Optional<Instant> instant(Timestamp timestamp) {
        boolean date = timestamp.getSeconds() >= FIRST_SECOND
                && timestamp.getSeconds() <= LAST_SECOND
                && timestamp.getNanos() >= 0
                && timestamp.getNanos() <= LAST_NANO;
        return date
                ? Optional.of(Instant.ofEpochSecond(timestamp.getSeconds(), timestamp.getNanos()))
                : Optional.empty();
    }

    /** Empty if it is negative or no duration. */
    static Optional<Duration> duration(com.google.protobuf.Duration duration) {
        boolean length = duration.getSeconds() >= 0
                && duration.getSeconds() <= LAST_SECOND - FIRST_SECOND
                && duration.getNanos() >= 0
                && duration.getNanos() <= LAST_NANO;
        return length ? Optional.of(Duration.ofSeconds(duration.getSeconds(), duration.getNanos())) : Optional.empty();
    }
}
