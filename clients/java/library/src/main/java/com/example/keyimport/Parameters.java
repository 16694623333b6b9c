package com.example.keyimport;

import com.example.keyimport.KeyImportException.Details;
import com.example.keyimport.KeyImportException.MaterialUnsuitable;
import com.example.keyimport.KeyImportException.WrappingKeyRejected;
import com.example.keyimport.v1.GetParametersForImportRequest;
import com.example.keyimport.v1.GetParametersForImportResponse;
import com.example.keyimport.v1.ParametersSource;
import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import com.google.protobuf.ByteString;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Instant;
import java.util.HexFormat;

/** A parameter set that has been checked. Its public key and import token belong together. */
public final class Parameters {
    private final GetParametersForImportResponse answer;
    private final Instant validTo;

    private Parameters(GetParametersForImportResponse answer, Instant validTo) {
        this.answer = answer;
        this.validTo = validTo;
    }

    /** The broker's answer as a parameter set; WrappingKeyRejected if it contradicts itself or the request. */
    static Parameters checked(GetParametersForImportResponse answer, GetParametersForImportRequest asked, Instant now) {
        var algorithm = answer.getWrappingAlgorithm();
        var spec = answer.getWrappingKeySpec();
        require(
                namesKey(answer.getKeyArn(), asked.getKeyId()),
                "it is for '" + answer.getKeyArn() + "', not for '" + asked.getKeyId() + "'");
        require(
                asked.getWrappingAlgorithm() == WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED
                        || asked.getWrappingAlgorithm() == algorithm,
                Wrapping.name(algorithm) + " is not the wrapping algorithm asked for");
        require(
                asked.getWrappingKeySpec() == WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED
                        || asked.getWrappingKeySpec() == spec,
                Wrapping.name(spec) + " is not the wrapping key spec asked for");
        require(Wrapping.supports(algorithm), "this library does not wrap with " + Wrapping.name(algorithm));
        require(Wrapping.supports(spec), "this library does not wrap under a key of spec " + Wrapping.name(spec));
        require(
                sha256(answer.getPublicKey()).equals(answer.getPublicKeySha256()),
                "the public key has another SHA-256");
        require(!answer.getImportToken().isEmpty(), "the import token is empty");
        var validTo = Times.instant(answer.getParametersValidTo());
        require(answer.hasParametersValidTo() && validTo.isPresent(), "its expiry is no date");
        require(validTo.get().isAfter(now), "it expired at " + validTo.get());
        Wrapping.checkPublicKey(answer.getPublicKey().toByteArray(), spec);
        return new Parameters(answer, validTo.get());
    }

    /** Whether the ARN is the asked one or, if a bare key id was asked for, ends in that. */
    static boolean namesKey(String keyArn, String keyId) {
        return keyArn.equals(keyId) || (!keyId.startsWith("arn:") && keyArn.endsWith(":key/" + keyId));
    }

    private static void require(boolean met, String objection) {
        if (!met) {
            throw new WrappingKeyRejected(Details.here("the broker's answer is refused: " + objection));
        }
    }

    private static ByteString sha256(ByteString bytes) {
        try {
            return ByteString.copyFrom(MessageDigest.getInstance("SHA-256").digest(bytes.toByteArray()));
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("this JDK has no SHA-256", error);
        }
    }

    /**
     * Wraps key material for import with this set.
     *
     * @param material AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER
     * @return what to import together with {@link #importToken}
     * @throws MaterialUnsuitable if the material does not fit
     */
    public byte[] wrap(byte[] material) {
        return Wrapping.wrap(material, publicKey(), wrappingAlgorithm(), wrappingKeySpec());
    }

    /**
     * The key.
     *
     * @return its ARN
     */
    public String keyArn() {
        return answer.getKeyArn();
    }

    /**
     * The wrapping public key.
     *
     * @return DER SubjectPublicKeyInfo
     */
    public byte[] publicKey() {
        return answer.getPublicKey().toByteArray();
    }

    /**
     * What KMS wants to see with the key material that was wrapped under {@link #publicKey}.
     *
     * @return opaque bytes, not to be logged
     */
    public byte[] importToken() {
        return answer.getImportToken().toByteArray();
    }

    /**
     * When KMS stops accepting the token.
     *
     * @return a time that was ahead when the set came
     */
    public Instant validTo() {
        return validTo;
    }

    /**
     * What to wrap with.
     *
     * @return one of the four that this library wraps with
     */
    public WrappingAlgorithm wrappingAlgorithm() {
        return answer.getWrappingAlgorithm();
    }

    /**
     * The kind and size of the public key.
     *
     * @return one of the three RSA specs
     */
    public WrappingKeySpec wrappingKeySpec() {
        return answer.getWrappingKeySpec();
    }

    /**
     * The SHA-256 of the public key as the broker's audit log shows it.
     *
     * @return 64 hexadecimal digits
     */
    public String publicKeySha256() {
        return HexFormat.of().formatHex(answer.getPublicKeySha256().toByteArray());
    }

    /**
     * Where the broker had the set from.
     *
     * @return UNRECOGNIZED for a source newer than this library
     */
    public ParametersSource source() {
        return answer.getSource();
    }

    @Override
    public String toString() {
        return "Parameters[keyArn=%s, wrappingAlgorithm=%s, wrappingKeySpec=%s, publicKeySha256=%s, validTo=%s]"
                .formatted(
                        keyArn(),
                        Wrapping.name(wrappingAlgorithm()),
                        Wrapping.name(wrappingKeySpec()),
                        publicKeySha256(),
                        validTo());
    }
}
