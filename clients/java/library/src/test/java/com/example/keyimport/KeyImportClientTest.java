package com.example.keyimport;

import static com.example.keyimport.RefusalsTest.failure;
import static com.example.keyimport.RefusalsTest.info;
import static com.example.keyimport.RefusalsTest.retryAfter;
import static com.example.keyimport.v1.WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256;
import static com.example.keyimport.v1.WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertThrowsExactly;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.example.keyimport.KeyImportException.ImportTokenExpired;
import com.example.keyimport.KeyImportException.MaterialUnsuitable;
import com.example.keyimport.KeyImportException.OutcomeUnknown;
import com.example.keyimport.KeyImportException.WrappingKeyRejected;
import com.example.keyimport.v1.DeleteImportedKeyMaterialRequest;
import com.example.keyimport.v1.GetKeyImportStatusRequest;
import com.example.keyimport.v1.GetParametersForImportRequest;
import com.example.keyimport.v1.GetParametersForImportResponse;
import com.example.keyimport.v1.ImportKeyMaterialRequest;
import com.example.keyimport.v1.KeyImportServiceGrpc.KeyImportServiceBlockingStub;
import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Status;
import java.io.IOException;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

@Timeout(60)
class KeyImportClientTest {
    private static final byte[] MATERIAL = "0123456789abcdef0123456789abcdef".getBytes();
    private static final byte[] TOKEN = {1, 2, 3};

    private Broker broker;
    private KeyImportClient client;

    @BeforeEach
    void open() throws IOException {
        broker = Broker.onLoopback(0);
        client = KeyImportClient.connect(broker.target());
    }

    @AfterEach
    void close() {
        client.close();
        broker.close();
    }

    private ImportedKeyMaterial importMaterial() {
        return client.importKeyMaterial(Broker.KEY_ID, MATERIAL, Expiration.never());
    }

    @Test
    void importsWhatUnwrapsIntoTheKeyThatWasChecked() throws GeneralSecurityException {
        var imported = importMaterial();
        var request = (ImportKeyMaterialRequest) broker.requests.get(1);
        assertEquals(Broker.KEY_ARN, request.getKeyId());
        assertEquals("token 0", request.getImportToken().toStringUtf8());
        assertTrue(request.getNeverExpires());
        var wrapped = request.getEncryptedKeyMaterial().toByteArray();
        assertArrayEquals(MATERIAL, Keys.unwrap(wrapped, Keys.rsa(2048), WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256));
        assertEquals(Broker.KEY_ARN, imported.keyArn());
        assertEquals(64, imported.publicKeySha256().length());
    }

    @Test
    void importsOverAUnixSocketAsLocalhost(@TempDir Path directory) throws IOException {
        var path = directory.resolve("b.sock");
        try (var local = Broker.onUnixSocket(path);
                var over = KeyImportClient.connect("unix:" + path)) {
            over.importKeyMaterial(
                    Broker.KEY_ID, MATERIAL, Expiration.at(Instant.now().plusSeconds(60)));
            assertEquals(List.of("localhost", "localhost"), local.authorities);
        }
    }

    static Stream<Consumer<GetParametersForImportResponse.Builder>> lies() {
        return Stream.of(
                answer -> answer.setKeyArn(Broker.KEY_ARN + "0"),
                answer -> answer.setKeyArn(""),
                answer -> answer.setWrappingAlgorithm(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256),
                answer -> answer.setWrappingAlgorithm(WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED),
                answer -> answer.setWrappingAlgorithmValue(99),
                answer -> answer.setWrappingKeySpec(WRAPPING_KEY_SPEC_RSA_4096),
                answer -> answer.setWrappingKeySpec(WrappingKeySpec.WRAPPING_KEY_SPEC_SM2),
                answer -> answer.setWrappingKeySpecValue(99),
                answer -> answer.clearPublicKeySha256(),
                answer -> answer.setPublicKeySha256(Broker.sha256(ByteString.EMPTY)),
                answer -> answer.clearImportToken(),
                answer -> answer.clearParametersValidTo(),
                answer -> answer.setParametersValidTo(
                        Times.timestamp(Instant.now().minusSeconds(1))),
                answer -> answer.setParametersValidTo(Timestamp.newBuilder().setSeconds(Long.MAX_VALUE)),
                answer -> answer.setParametersValidTo(
                        Timestamp.newBuilder().setSeconds(4_000_000_000L).setNanos(-1)),
                answer -> {
                    var longer = answer.getPublicKey().concat(ByteString.copyFrom(new byte[1]));
                    answer.setPublicKey(longer).setPublicKeySha256(Broker.sha256(longer));
                });
    }

    @ParameterizedTest
    @MethodSource("lies")
    void wrapsNothingUnderALie(Consumer<GetParametersForImportResponse.Builder> lie) {
        broker.lie = lie;
        var asked = ParametersOptions.DEFAULT
                .withWrappingAlgorithm(WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256)
                .withWrappingKeySpec(WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048);
        assertThrows(
                WrappingKeyRejected.class,
                () -> client.importKeyMaterial(
                        Broker.KEY_ID, MATERIAL, Expiration.never(), asked, MaterialOptions.DEFAULT));
        assertEquals(0, broker.count(ImportKeyMaterialRequest.class));
    }

    @Test
    void takesABareKeyIdAtItsWordAndAnArnToTheLetter() {
        broker.lie = answer -> answer.setKeyArn("arn:aws:kms:eu-west-1:111122223333:key/" + Broker.KEY_ID);
        client.getParameters(Broker.KEY_ID);
        assertThrows(WrappingKeyRejected.class, () -> client.getParameters(Broker.KEY_ARN));
        assertThrows(WrappingKeyRejected.class, () -> client.getParameters(Broker.KEY_ID.substring(1)));
    }

    @Test
    void sendsNothingForMaterialThatCannotBeWrapped() {
        var oaep = ParametersOptions.DEFAULT.withWrappingAlgorithm(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256);
        assertThrows(
                MaterialUnsuitable.class,
                () -> client.importKeyMaterial(
                        Broker.KEY_ID, new byte[447], Expiration.never(), oaep, MaterialOptions.DEFAULT));
        assertTrue(broker.requests.isEmpty());
    }

    @Test
    void renewsARefusedTokenOnce() {
        var refused = failure(Status.Code.FAILED_PRECONDITION, info("IMPORT_TOKEN_EXPIRED"));
        broker.importFailures.add(refused);
        importMaterial();
        assertEquals(2, broker.count(GetParametersForImportRequest.class));
        var second = (ImportKeyMaterialRequest) broker.requests.get(3);
        assertEquals("token 2", second.getImportToken().toStringUtf8());

        broker.requests.clear();
        broker.importFailures.addAll(List.of(refused, refused));
        assertThrows(ImportTokenExpired.class, this::importMaterial);
        assertEquals(2, broker.count(ImportKeyMaterialRequest.class));
    }

    @Test
    void asksAgainWhereTheBrokerSaysSoImportsIncluded() {
        broker.failures.add(failure(Status.Code.RESOURCE_EXHAUSTED, info("QUOTA_QUEUE_FULL"), retryAfter(150)));
        broker.failures.add(failure(Status.Code.UNAVAILABLE, info("KMS_UNAVAILABLE"), retryAfter(150)));
        long start = System.nanoTime();
        client.importWrapped(Broker.KEY_ARN, new byte[256], TOKEN, Expiration.never(), MaterialOptions.DEFAULT);
        assertTrue(Duration.ofNanos(System.nanoTime() - start).toMillis() >= 300);
        assertEquals(3, broker.count(ImportKeyMaterialRequest.class));
    }

    @Test
    void asksNotAgainWhereTheDelayIsLongerThanTheTimeout() {
        broker.failures.add(failure(Status.Code.UNAVAILABLE, info("KMS_UNAVAILABLE"), retryAfter(60_000)));
        var error = assertThrows(KeyImportException.KmsUnavailable.class, () -> client.getParameters(Broker.KEY_ID));
        assertEquals(Optional.of(Duration.ofMinutes(1)), error.retryAfter());
        assertEquals(1, broker.requests.size());
    }

    @Test
    void triesACallThatBrokeOffAgainOnlyIfItChangesNoKey() {
        for (var status : List.of(Status.UNAVAILABLE, Status.CANCELLED)) {
            broker.requests.clear();
            for (int i = 0; i < 3; i++) {
                broker.failures.add(status.asRuntimeException());
            }
            client.status(Broker.KEY_ID);
            assertEquals(4, broker.count(GetKeyImportStatusRequest.class));

            broker.failures.add(status.asRuntimeException());
            assertThrows(OutcomeUnknown.class, () -> client.deleteImportedKeyMaterial(Broker.KEY_ID));
            assertEquals(1, broker.count(DeleteImportedKeyMaterialRequest.class));
        }
    }

    @Test
    void findsABrokerThatIsBack() throws Exception {
        int port = broker.port();
        client.discard(Broker.KEY_ID, TOKEN);
        broker.close();
        var waiting = CompletableFuture.supplyAsync(() -> client.getParameters(Broker.KEY_ID));
        sleep(1000);
        assertFalse(waiting.isDone());
        broker = Broker.onLoopback(port);
        waiting.get(10, TimeUnit.SECONDS);
    }

    @Test
    void findsABrokerThatIsBackWithACallThatIsNotTriedAgain() throws IOException {
        int port = broker.port();
        broker.close();
        for (int i = 0; i < 3; i++) {
            assertThrows(OutcomeUnknown.class, () -> client.deleteImportedKeyMaterial(Broker.KEY_ID));
        }
        broker = Broker.onLoopback(port);
        client.deleteImportedKeyMaterial(Broker.KEY_ID);
    }

    @Test
    void doesNotTakeAnAnswerForAnotherKey() {
        broker.answeredArn = Broker.KEY_ARN.replace("1234", "4321");
        assertThrows(OutcomeUnknown.class, this::importMaterial);
        assertThrows(OutcomeUnknown.class, () -> client.deleteImportedKeyMaterial(Broker.KEY_ID));
        assertThrows(KeyImportException.class, () -> client.status(Broker.KEY_ID));
    }

    @Test
    void tellsWhenKeyMaterialExpires() {
        assertEquals(Optional.empty(), client.status(Broker.KEY_ID).materialValidTo());
        broker.materialValidTo =
                Timestamp.newBuilder().setSeconds(4_000_000_000L).build();
        assertEquals(
                Optional.of(Instant.ofEpochSecond(4_000_000_000L)),
                client.status(Broker.KEY_ID).materialValidTo());
        broker.materialValidTo = Timestamp.newBuilder().setNanos(-1).build();
        assertThrows(KeyImportException.class, () -> client.status(Broker.KEY_ID));
    }

    @Test
    void hasOneTimeoutForAll() {
        broker.lie = answer -> sleep(400);
        var hasty = client.withTimeout(Duration.ofMillis(200));
        var error = assertThrows(KeyImportException.class, () -> hasty.getParameters(Broker.KEY_ID));
        assertEquals(Optional.of(Status.Code.DEADLINE_EXCEEDED), error.code());
        client.withTimeout(Duration.ofSeconds(Long.MAX_VALUE)).getParameters(Broker.KEY_ID);
    }

    @Test
    void knowsWhatBecameOfACallThatWasNotSent() {
        assertSendsNothing(Status.Code.DEADLINE_EXCEEDED, client.withTimeout(Duration.ZERO));
        var timer = Executors.newSingleThreadScheduledExecutor();
        var late = Context.current().withDeadline(Deadline.after(0, TimeUnit.SECONDS), timer);
        late.run(() -> assertSendsNothing(Status.Code.DEADLINE_EXCEEDED, client));
        timer.shutdownNow();
        var cancelled = Context.current().withCancellation();
        cancelled.cancel(null);
        cancelled.run(() -> assertSendsNothing(Status.Code.CANCELLED, client));
        assertEquals(List.of(), broker.authorities);
    }

    private static void assertSendsNothing(Status.Code code, KeyImportClient client) {
        for (Executable change : List.<Executable>of(
                () -> client.deleteImportedKeyMaterial(Broker.KEY_ID),
                () -> client.importWrapped(
                        Broker.KEY_ID, MATERIAL, TOKEN, Expiration.never(), MaterialOptions.DEFAULT))) {
            var error = assertThrowsExactly(KeyImportException.class, change);
            assertEquals(Optional.of(code), error.code());
        }
    }

    /** Of a refused import, the delay ends after the time that is left. */
    @Test
    void sendsNothingAfterADelayThatTookTooLong() {
        var elapsed = new AtomicLong();
        var deadline = Deadline.after(30, TimeUnit.SECONDS, new Deadline.Ticker() {
            @Override
            public long nanoTime() {
                return elapsed.get();
            }
        });
        broker.failures.add(failure(Status.Code.RESOURCE_EXHAUSTED, info("KMS_THROTTLED"), retryAfter(1000)));
        CompletableFuture.runAsync(() -> {
            while (broker.requests.isEmpty()) {
                sleep(10);
            }
            sleep(500); // by when the client has the answer, and waits
            elapsed.set(TimeUnit.SECONDS.toNanos(31));
        });
        try (var connection = Connection.to(broker.target(), null)) {
            var request = DeleteImportedKeyMaterialRequest.getDefaultInstance();
            var error = assertThrows(
                    KeyImportException.class,
                    () -> Calls.make(
                            connection,
                            KeyImportServiceBlockingStub::deleteImportedKeyMaterial,
                            request,
                            true,
                            deadline));
            assertFalse(error instanceof OutcomeUnknown);
        }
        assertEquals(1, broker.requests.size());
    }

    @Test
    void givesUpWhenInterrupted() {
        broker.failures.add(failure(Status.Code.UNAVAILABLE, info("KMS_UNAVAILABLE"), retryAfter(20_000)));
        var waiting = Thread.currentThread();
        CompletableFuture.runAsync(() -> {
            while (broker.requests.isEmpty()) {
                sleep(10);
            }
            sleep(500); // by when the client has the answer, and waits
            waiting.interrupt();
        });
        assertThrows(KeyImportException.KmsUnavailable.class, () -> client.getParameters(Broker.KEY_ID));
        assertTrue(Thread.interrupted());
    }

    @Test
    void asksNotAgainOnceInterrupted() {
        var waiting = Thread.currentThread();
        assertEndsForGood(waiting::interrupt);
        assertTrue(Thread.interrupted());
    }

    @Test
    void asksNotAgainOnceItsContextIsCancelled() {
        var context = Context.current().withCancellation();
        context.run(() -> assertEndsForGood(() -> context.cancel(null)));
    }

    /** Cancels a call while the broker has it. What is tried again until the time is up would outlast the test. */
    private void assertEndsForGood(Runnable cancel) {
        var ended = new CountDownLatch(1);
        broker.lie = answer -> {
            cancel.run();
            await(ended);
        };
        var patient = client.withTimeout(Duration.ofHours(1));
        var error = assertThrows(KeyImportException.class, () -> patient.getParameters(Broker.KEY_ID));
        ended.countDown();
        assertEquals(Optional.of(Status.Code.CANCELLED), error.code());
        assertEquals(1, broker.authorities.size());
    }

    @Test
    void sendsAndTakesNoLargeMessage() {
        var error = assertThrows(
                KeyImportException.class,
                () -> client.importWrapped(
                        Broker.KEY_ID, new byte[65_536], TOKEN, Expiration.never(), MaterialOptions.DEFAULT));
        assertFalse(error instanceof OutcomeUnknown);
        assertTrue(broker.requests.isEmpty());
        broker.lie = answer -> answer.setImportToken(ByteString.copyFrom(new byte[65_536]));
        assertThrows(KeyImportException.class, () -> client.getParameters(Broker.KEY_ID));
    }

    @Test
    void showsNoSecret() {
        assertFalse(client.getParameters(Broker.KEY_ID).toString().contains("oken"));
        broker.lie = answer -> answer.clearPublicKeySha256();
        var error = assertThrows(WrappingKeyRejected.class, () -> client.getParameters(Broker.KEY_ID));
        assertFalse(error.toString().contains("token 1"));
    }

    private static void await(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException interrupted) {
            throw new AssertionError(interrupted);
        }
    }

    private static void sleep(long millis) {
        try {
            TimeUnit.MILLISECONDS.sleep(millis);
        } catch (InterruptedException interrupted) {
            throw new AssertionError(interrupted);
        }
    }
}
