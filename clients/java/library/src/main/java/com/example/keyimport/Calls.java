package com.example.keyimport;

import com.example.keyimport.KeyImportException.Details;
import com.example.keyimport.v1.KeyImportServiceGrpc;
import com.example.keyimport.v1.KeyImportServiceGrpc.KeyImportServiceBlockingStub;
import com.google.protobuf.MessageLite;
import io.grpc.Deadline;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.BiFunction;

/** Calls to the broker, which end in an answer or a {@link KeyImportException}. */
final class Calls {
    private Calls() {}

    /**
     * Makes a call, again where {@link Retry} says so.
     *
     * @param changesKey whether the call changes the key, so that breaking off leaves the outcome open
     * @param deadline the end of all attempts, told to the broker with each
     */
    static <Q extends MessageLite, A> A make(
            Connection connection,
            BiFunction<KeyImportServiceBlockingStub, Q, A> method,
            Q request,
            boolean changesKey,
            Deadline deadline) {
        requireSendable(request);
        for (int attempt = 1; ; attempt++) {
            try {
                var stub = KeyImportServiceGrpc.newBlockingStub(connection.channel())
                        .withDeadline(deadline);
                return method.apply(stub, request);
            } catch (StatusRuntimeException cause) {
                var error = Refusals.typed(cause, changesKey);
                var left = Duration.ofNanos(deadline.timeRemaining(TimeUnit.NANOSECONDS));
                var delay = Retry.delay(
                        error, attempt, left, ThreadLocalRandom.current().nextDouble());
                sleep(delay.orElseThrow(() -> error), error);
            }
        }
    }

    private static void sleep(Duration delay, KeyImportException error) {
        try {
            TimeUnit.NANOSECONDS.sleep(delay.toNanos());
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw error;
        }
    }

    /** Here rather than by gRPC, which ends such a call as CANCELLED, as if something had been sent. */
    private static void requireSendable(MessageLite request) {
        if (request.getSerializedSize() > Connection.MESSAGE_BYTES) {
            throw new KeyImportException(new Details(
                    "a request of " + request.getSerializedSize() + " bytes is too large; nothing was sent",
                    "",
                    Status.Code.RESOURCE_EXHAUSTED,
                    null,
                    null,
                    Map.of(),
                    null));
        }
    }
}
