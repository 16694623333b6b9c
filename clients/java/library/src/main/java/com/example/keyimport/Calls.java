package com.example.keyimport;

import com.example.keyimport.KeyImportException.Details;
import com.example.keyimport.v1.KeyImportServiceGrpc;
import com.example.keyimport.v1.KeyImportServiceGrpc.KeyImportServiceBlockingStub;
import com.google.protobuf.MessageLite;
import io.grpc.Context;
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
            requireNotOver(deadline);
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
            throw unsent(
                    Status.Code.RESOURCE_EXHAUSTED,
                    "a request of " + request.getSerializedSize() + " bytes is too large");
        }
    }

    /** Here too, because gRPC says of a call it did not begin what it says of one that broke off. */
    private static void requireNotOver(Deadline deadline) {
        var context = Context.current();
        var contexts = context.getDeadline();
        if (deadline.isExpired() || (contexts != null && contexts.isExpired())) {
            throw unsent(Status.Code.DEADLINE_EXCEEDED, "the time is up");
        }
        if (context.isCancelled()) {
            throw unsent(Status.Code.CANCELLED, "the Context is cancelled");
        }
    }

    private static KeyImportException unsent(Status.Code code, String why) {
        return new KeyImportException(new Details(why + "; nothing was sent", "", code, null, null, Map.of(), null));
    }
}
