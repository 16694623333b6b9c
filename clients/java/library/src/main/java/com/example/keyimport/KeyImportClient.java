package com.example.keyimport;

import com.example.keyimport.KeyImportException.Details;
import com.example.keyimport.KeyImportException.ImportTokenRefused;
import com.example.keyimport.KeyImportException.MaterialUnsuitable;
import com.example.keyimport.KeyImportException.OutcomeUnknown;
import com.example.keyimport.KeyImportException.WrappingKeyRejected;
import com.example.keyimport.v1.DeleteImportedKeyMaterialRequest;
import com.example.keyimport.v1.DiscardParametersRequest;
import com.example.keyimport.v1.GetKeyImportStatusRequest;
import com.example.keyimport.v1.GetParametersForImportRequest;
import com.example.keyimport.v1.ImportKeyMaterialRequest;
import com.example.keyimport.v1.KeyImportServiceGrpc.KeyImportServiceBlockingStub;
import com.google.protobuf.ByteString;
import com.google.protobuf.MessageLite;
import io.grpc.ChannelCredentials;
import io.grpc.Deadline;
import java.time.Duration;
import java.time.Instant;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.function.BiFunction;

/**
 * A connection to a broker. Its methods block, and may be called by many threads at once.
 *
 * <p>Each method has one timeout for all it does. Within it, a method asks again where the broker says when the same
 * request can succeed, and, where the call changes no key, while the broker cannot be reached; nothing else is tried
 * again. A thread that is interrupted gives up waiting and stays interrupted; an import or delete it was waiting for
 * ends in {@link OutcomeUnknown}.
 *
 * <p>A key is named by a key id, which means a key of the broker's first Region, or a key ARN; never by an alias. What
 * the broker refuses is thrown as a {@link KeyImportException}.
 */
public final class KeyImportClient implements AutoCloseable {
    /** The timeout where {@link #withTimeout} says nothing else. */
    public static final Duration DEFAULT_TIMEOUT = Duration.ofSeconds(30);

    private final Connection connection;
    private final Duration timeout;

    private KeyImportClient(Connection connection, Duration timeout) {
        this.connection = connection;
        this.timeout = timeout;
    }

    /**
     * A client for a broker on this machine; it connects with the first call.
     *
     * @param target {@code unix:PATH}, or {@code tcp:HOST:PORT} or {@code HOST:PORT} with a loopback address
     * @return a client, to be closed
     * @throws IllegalArgumentException if the target is neither
     */
    public static KeyImportClient connect(String target) {
        return new KeyImportClient(Connection.to(target, null), DEFAULT_TIMEOUT);
    }

    /**
     * A client that speaks mutual TLS; it connects with the first call.
     *
     * @param target {@code tcp:HOST:PORT} or {@code HOST:PORT}
     * @param credentials {@link io.grpc.TlsChannelCredentials} with a key manager
     * @return a client, to be closed
     * @throws IllegalArgumentException if the target or the credentials are not such
     */
    public static KeyImportClient connect(String target, ChannelCredentials credentials) {
        return new KeyImportClient(
                Connection.to(target, Objects.requireNonNull(credentials, "credentials")), DEFAULT_TIMEOUT);
    }

    /**
     * The same connection with another timeout. Closing either closes both.
     *
     * @param value how long a method may take in all
     * @return a client that shares the connection
     */
    public KeyImportClient withTimeout(Duration value) {
        return new KeyImportClient(connection, Objects.requireNonNull(value, "value"));
    }

    /**
     * Gets a parameter set, as the broker chooses it.
     *
     * @param keyId a key id or key ARN
     * @return a set that has been checked
     * @throws WrappingKeyRejected if the answer contradicts itself or the request
     */
    public Parameters getParameters(String keyId) {
        return getParameters(keyId, ParametersOptions.DEFAULT);
    }

    /**
     * Gets a parameter set.
     *
     * @param keyId a key id or key ARN
     * @param options what is wanted of it
     * @return a set that has been checked
     * @throws WrappingKeyRejected if the answer contradicts itself or the request
     */
    public Parameters getParameters(String keyId, ParametersOptions options) {
        return getParameters(keyId, options, deadline());
    }

    /**
     * Gets parameters, wraps the key material here, and imports it.
     *
     * @param keyId a key id or key ARN
     * @param material AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER
     * @param expiration when the key material expires
     * @return what was imported
     * @throws MaterialUnsuitable if the material cannot be wrapped; nothing was imported
     * @throws WrappingKeyRejected if the broker's answer is not to be wrapped under; nothing was imported
     * @throws OutcomeUnknown if nobody knows whether it was: look at the key before trying again
     */
    public ImportedKeyMaterial importKeyMaterial(String keyId, byte[] material, Expiration expiration) {
        return importKeyMaterial(keyId, material, expiration, ParametersOptions.DEFAULT, MaterialOptions.DEFAULT);
    }

    /**
     * Gets parameters, wraps the key material here, and imports it. A token that KMS does not accept (any more) is
     * answered once, by a new set and a new wrapping.
     *
     * @param keyId a key id or key ARN
     * @param material AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER
     * @param expiration when the key material expires
     * @param parametersOptions what is wanted of the parameter set
     * @param materialOptions what KMS is told of the key material
     * @return what was imported
     * @throws MaterialUnsuitable if the material cannot be wrapped; nothing was imported
     * @throws WrappingKeyRejected if the broker's answer is not to be wrapped under; nothing was imported
     * @throws OutcomeUnknown if nobody knows whether it was: look at the key before trying again
     */
    public ImportedKeyMaterial importKeyMaterial(
            String keyId,
            byte[] material,
            Expiration expiration,
            ParametersOptions parametersOptions,
            MaterialOptions materialOptions) {
        var request = importRequest(expiration, materialOptions);
        Wrapping.checkMaterial(material, parametersOptions.wrappingAlgorithm(), parametersOptions.wrappingKeySpec());
        var deadline = deadline();
        try {
            return importOnce(keyId, material, parametersOptions, request, deadline);
        } catch (ImportTokenRefused refused) {
            // The broker forgets a set when it learns this, so the next one is another.
            return importOnce(keyId, material, parametersOptions, request, deadline);
        }
    }

    /**
     * Imports key material that was wrapped elsewhere, such as in an HSM.
     *
     * @param keyId a key id or key ARN
     * @param encryptedKeyMaterial the material, wrapped under the public key of the set that the token is of
     * @param importToken the set's token
     * @param expiration when the key material expires
     * @param options what KMS is told of the key material
     * @return what was imported
     * @throws OutcomeUnknown if nobody knows whether it was: look at the key before trying again
     */
    public ImportedKeyMaterial importWrapped(
            String keyId,
            byte[] encryptedKeyMaterial,
            byte[] importToken,
            Expiration expiration,
            MaterialOptions options) {
        var request = importRequest(expiration, options)
                .setKeyId(keyId)
                .setEncryptedKeyMaterial(ByteString.copyFrom(encryptedKeyMaterial))
                .setImportToken(ByteString.copyFrom(importToken));
        return sendImport(request.build(), "", deadline());
    }

    /**
     * Deletes the current key material: the key is unusable until the same material is imported again.
     *
     * @param keyId a key id or key ARN
     * @return what was deleted
     * @throws OutcomeUnknown if nobody knows whether it was: look at the key before trying again
     */
    public DeletedKeyMaterial deleteImportedKeyMaterial(String keyId) {
        return deleteImportedKeyMaterial(keyId, "");
    }

    /**
     * Deletes key material: the key is unusable until the same material is imported again.
     *
     * @param keyId a key id or key ARN
     * @param keyMaterialId which material of a symmetric encryption key; empty means the current one
     * @return what was deleted
     * @throws OutcomeUnknown if nobody knows whether it was: look at the key before trying again
     */
    public DeletedKeyMaterial deleteImportedKeyMaterial(String keyId, String keyMaterialId) {
        var request = DeleteImportedKeyMaterialRequest.newBuilder()
                .setKeyId(keyId)
                .setKeyMaterialId(keyMaterialId)
                .build();
        var answer = call(KeyImportServiceBlockingStub::deleteImportedKeyMaterial, request, true, deadline());
        requireSameKey(answer.getKeyArn(), keyId);
        return new DeletedKeyMaterial(answer.getKeyArn(), answer.getKeyMaterialId());
    }

    /**
     * Reports a parameter set as spent or suspect, so that the broker hands it to no one any more.
     *
     * @param keyId a key id or key ARN
     * @param importToken the set's token
     */
    public void discard(String keyId, byte[] importToken) {
        var request = DiscardParametersRequest.newBuilder()
                .setKeyId(keyId)
                .setImportToken(ByteString.copyFrom(importToken))
                .build();
        call(KeyImportServiceBlockingStub::discardParameters, request, false, deadline());
    }

    /**
     * Asks KMS about a key, such as for what became of an import of unknown outcome.
     *
     * @param keyId a key id or key ARN
     * @return what KMS tells of it now
     */
    public KeyStatus status(String keyId) {
        var request = GetKeyImportStatusRequest.newBuilder().setKeyId(keyId).build();
        var answer = call(KeyImportServiceBlockingStub::getKeyImportStatus, request, false, deadline());
        if (!Parameters.namesKey(answer.getKeyArn(), keyId)) {
            throw new KeyImportException(Details.here(otherKey(answer.getKeyArn(), keyId)));
        }
        var validTo = Times.instant(answer.getMaterialValidTo());
        if (validTo.isEmpty()) {
            throw new KeyImportException(Details.here("the key material's expiry is no date"));
        }
        return new KeyStatus(
                answer.getKeyArn(),
                answer.getKeySpec(),
                answer.getKeyState(),
                answer.getExternalOrigin(),
                validTo.filter(time -> answer.hasMaterialValidTo()),
                answer.getMultiRegion());
    }

    /** Closes the connection; calls that are still under way break off. */
    @Override
    public void close() {
        connection.close();
    }

    private Deadline deadline() {
        // convert() rather than toNanos(), which throws on what is longer than three centuries.
        return Deadline.after(TimeUnit.NANOSECONDS.convert(timeout), TimeUnit.NANOSECONDS);
    }

    private Parameters getParameters(String keyId, ParametersOptions options, Deadline deadline) {
        var request = GetParametersForImportRequest.newBuilder()
                .setKeyId(keyId)
                .setWrappingAlgorithm(options.wrappingAlgorithm())
                .setWrappingKeySpec(options.wrappingKeySpec())
                .setSharing(options.sharing());
        if (options.minRemainingValidity() != null) {
            request.setMinRemainingValidity(Times.duration(options.minRemainingValidity()));
        }
        var asked = request.build();
        var answer = call(KeyImportServiceBlockingStub::getParametersForImport, asked, false, deadline);
        return Parameters.checked(answer, asked, Instant.now());
    }

    private ImportedKeyMaterial importOnce(
            String keyId,
            byte[] material,
            ParametersOptions options,
            ImportKeyMaterialRequest.Builder request,
            Deadline deadline) {
        var parameters = getParameters(keyId, options, deadline);
        request
                // The ARN rather than the caller's key id: what was checked is what is imported into.
                .setKeyId(parameters.keyArn())
                .setImportToken(ByteString.copyFrom(parameters.importToken()))
                .setEncryptedKeyMaterial(ByteString.copyFrom(parameters.wrap(material)));
        return sendImport(request.build(), parameters.publicKeySha256(), deadline);
    }

    private ImportedKeyMaterial sendImport(
            ImportKeyMaterialRequest request, String publicKeySha256, Deadline deadline) {
        var answer = call(KeyImportServiceBlockingStub::importKeyMaterial, request, true, deadline);
        requireSameKey(answer.getKeyArn(), request.getKeyId());
        return new ImportedKeyMaterial(answer.getKeyArn(), answer.getKeyMaterialId(), publicKeySha256);
    }

    private static ImportKeyMaterialRequest.Builder importRequest(Expiration expiration, MaterialOptions options) {
        var request = ImportKeyMaterialRequest.newBuilder()
                .setImportType(options.importType())
                .setKeyMaterialId(options.keyMaterialId())
                .setKeyMaterialDescription(options.keyMaterialDescription());
        expiration.put(request);
        return request;
    }

    private <Q extends MessageLite, A> A call(
            BiFunction<KeyImportServiceBlockingStub, Q, A> method, Q request, boolean changesKey, Deadline deadline) {
        return Calls.make(connection, method, request, changesKey, deadline);
    }

    private static void requireSameKey(String keyArn, String keyId) {
        if (!Parameters.namesKey(keyArn, keyId)) {
            throw new OutcomeUnknown(Details.here(otherKey(keyArn, keyId) + "; look at both keys"));
        }
    }

    private static String otherKey(String keyArn, String keyId) {
        return "the broker answered for '" + keyArn + "', not for '" + keyId + "'";
    }
}
