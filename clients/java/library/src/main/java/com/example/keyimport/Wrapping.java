package com.example.keyimport;

import com.example.keyimport.KeyImportException.Details;
import com.example.keyimport.KeyImportException.MaterialUnsuitable;
import com.example.keyimport.KeyImportException.WrappingKeyRejected;
import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.SecureRandom;
import java.security.interfaces.RSAPublicKey;
import java.security.spec.InvalidKeySpecException;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.RSAPublicKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;
import java.util.Map;
import java.util.stream.Collectors;
import javax.crypto.Cipher;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import javax.crypto.spec.SecretKeySpec;

/** Key material wrapped as KMS unwraps it, and the checks before that; needs no connection. */
public final class Wrapping {
    /** One wrapping algorithm: the hash of OAEP and of its MGF1, and whether an AES key stands between. */
    private record Recipe(MGF1ParameterSpec hash, int hashBytes, boolean aesKeyWrap) {
        /** The most bytes of key material; RFC 8017 section 7.1.1, and RFC 5649: eights, and eight more. */
        int capacity(int modulusBytes) {
            return aesKeyWrap ? (WRAPPED_BYTES - modulusBytes) / 8 * 8 - 8 : modulusBytes - 2 * hashBytes - 2;
        }
    }

    // https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
    // KMS offers SHA-1 too; OAEP needs no collision resistance.
    private static final Map<WrappingAlgorithm, Recipe> RECIPES = Map.of(
            WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1, new Recipe(MGF1ParameterSpec.SHA1, 20, false),
            WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256, new Recipe(MGF1ParameterSpec.SHA256, 32, false),
            WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_1, new Recipe(MGF1ParameterSpec.SHA1, 20, true),
            WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256,
                    new Recipe(MGF1ParameterSpec.SHA256, 32, true));
    private static final Map<WrappingKeySpec, Integer> MODULUS_BYTES = Map.of(
            WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048, 256,
            WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072, 384,
            WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096, 512);
    private static final BigInteger PUBLIC_EXPONENT = BigInteger.valueOf(65537);
    private static final int AES_KEY_BYTES = 32;
    private static final int WRAPPED_BYTES = 6144; // the most that KMS takes as EncryptedKeyMaterial
    private static final byte[] PEM = "-----BEGIN".getBytes(StandardCharsets.US_ASCII);
    private static final SecureRandom RANDOM = new SecureRandom();

    private Wrapping() {}

    /**
     * Wraps key material for import.
     *
     * @param material AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER
     * @param publicKey the wrapping public key, DER SubjectPublicKeyInfo
     * @param algorithm the parameter set's algorithm
     * @param spec the parameter set's spec; unspecified admits an RSA key of any of the three sizes
     * @return for RSAES_OAEP the one RSA block; for RSA_AES_KEY_WRAP the RSA block with a fresh AES-256 key in it, and
     *     then the material wrapped under that key with padding (RFC 5649)
     * @throws MaterialUnsuitable if the material does not fit, or this library does not wrap with the algorithm
     * @throws WrappingKeyRejected if the public key is not what {@link #checkPublicKey} lets pass
     */
    public static byte[] wrap(byte[] material, byte[] publicKey, WrappingAlgorithm algorithm, WrappingKeySpec spec) {
        var key = checkPublicKey(publicKey, spec);
        checkMaterial(material, algorithm, specOf(key));
        var recipe = recipe(algorithm);
        if (!recipe.aesKeyWrap()) {
            return oaep(key, recipe, material);
        }
        var aesKey = new byte[AES_KEY_BYTES];
        try {
            RANDOM.nextBytes(aesKey);
            var block = oaep(key, recipe, aesKey);
            var wrapped = aesKeyWrap(aesKey, material);
            var both = Arrays.copyOf(block, block.length + wrapped.length);
            System.arraycopy(wrapped, 0, both, block.length, wrapped.length);
            return both;
        } finally {
            Arrays.fill(aesKey, (byte) 0);
        }
    }

    /**
     * Parses a wrapping public key, or refuses it.
     *
     * @param der the whole of a canonical DER SubjectPublicKeyInfo
     * @param spec the spec it must be of; unspecified admits the three RSA specs
     * @return the key
     * @throws WrappingKeyRejected if it is anything but an RSA key of that size, with the exponent 65537 and an odd
     *     modulus
     */
    public static RSAPublicKey checkPublicKey(byte[] der, WrappingKeySpec spec) {
        if (spec != WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED && !supports(spec)) {
            throw rejected("this library does not wrap under a key of spec " + name(spec));
        }
        RSAPublicKey key;
        PublicKey canonical;
        try {
            var factory = KeyFactory.getInstance("RSA");
            key = (RSAPublicKey) factory.generatePublic(new X509EncodedKeySpec(der));
            canonical = factory.generatePublic(new RSAPublicKeySpec(key.getModulus(), key.getPublicExponent()));
        } catch (InvalidKeySpecException error) {
            throw rejected("the public key is no DER SubjectPublicKeyInfo of an RSA key", error);
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException("this JDK has no RSA", error);
        }
        if (!Arrays.equals(canonical.getEncoded(), der)) {
            throw rejected("the public key is not encoded canonically");
        }
        var actual = specOf(key);
        if (!supports(actual) || (spec != WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED && spec != actual)) {
            var wanted = supports(actual) ? "not " + name(spec) : "no wrapping key spec";
            throw rejected(
                    "the public key is an RSA key of " + key.getModulus().bitLength() + " bits, which is " + wanted);
        }
        // JCA lets these two pass. Under either of them the wrapped material would be open to whoever sent the key.
        if (!key.getPublicExponent().equals(PUBLIC_EXPONENT)) {
            throw rejected("the public key's exponent is not " + PUBLIC_EXPONENT);
        }
        if (!key.getModulus().testBit(0)) {
            throw rejected("the public key's modulus is even, so it is no RSA modulus");
        }
        return key;
    }

    /**
     * Refuses what can be seen to be unfit before a parameter set is spent on it.
     *
     * @param material the key material in plain text
     * @param algorithm the wrapping algorithm; unspecified where it is not known yet
     * @param spec the wrapping key spec; unspecified where it is not known yet
     * @throws MaterialUnsuitable if it is empty, or PEM, or does not fit, or this library does not wrap with the
     *     algorithm
     */
    public static void checkMaterial(byte[] material, WrappingAlgorithm algorithm, WrappingKeySpec spec) {
        if (material.length == 0) {
            throw unsuitable("the key material is empty");
        }
        if (material.length >= PEM.length && Arrays.equals(material, 0, PEM.length, PEM, 0, PEM.length)) {
            throw unsuitable("the key material is PEM text; KMS takes a private key as PKCS#8 DER");
        }
        if (algorithm == WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED) {
            return;
        }
        var recipe = recipe(algorithm);
        int widest =
                MODULUS_BYTES.values().stream().mapToInt(recipe::capacity).max().orElseThrow();
        int limit = supports(spec) ? recipe.capacity(MODULUS_BYTES.get(spec)) : widest;
        if (material.length > limit) {
            var under = supports(spec) ? name(spec) : "an RSA key";
            throw unsuitable("%d bytes of key material do not fit %s under %s, which holds at most %d bytes; %s"
                    .formatted(material.length, name(algorithm), under, limit, remedy(material.length, recipe)));
        }
    }

    static boolean supports(WrappingAlgorithm algorithm) {
        return RECIPES.containsKey(algorithm);
    }

    static boolean supports(WrappingKeySpec spec) {
        return MODULUS_BYTES.containsKey(spec);
    }

    /** The word KMS uses. */
    static String name(WrappingAlgorithm algorithm) {
        return algorithm.name().replaceFirst("^WRAPPING_ALGORITHM_", "");
    }

    /** The word KMS uses. */
    static String name(WrappingKeySpec spec) {
        return spec.name().replaceFirst("^WRAPPING_KEY_SPEC_", "");
    }

    /** RFC 5649. */
    static byte[] aesKeyWrap(byte[] aesKey, byte[] material) {
        try {
            var cipher = Cipher.getInstance("AES/KWP/NoPadding");
            cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(aesKey, "AES"));
            return cipher.doFinal(material);
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException("this JDK cannot wrap with AES", error);
        }
    }

    private static byte[] oaep(RSAPublicKey key, Recipe recipe, byte[] plain) {
        try {
            var cipher = Cipher.getInstance("RSA/ECB/OAEPPadding");
            // In full: what JCA calls OAEPWithSHA-256AndMGF1Padding uses SHA-1 for MGF1.
            var hash = recipe.hash();
            cipher.init(
                    Cipher.ENCRYPT_MODE,
                    key,
                    new OAEPParameterSpec(hash.getDigestAlgorithm(), "MGF1", hash, PSource.PSpecified.DEFAULT));
            return cipher.doFinal(plain);
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException("this JDK cannot wrap with RSA-OAEP", error);
        }
    }

    private static Recipe recipe(WrappingAlgorithm algorithm) {
        var recipe = RECIPES.get(algorithm);
        if (recipe == null) {
            throw unsuitable("this library does not wrap key material with " + name(algorithm));
        }
        return recipe;
    }

    private static WrappingKeySpec specOf(RSAPublicKey key) {
        return MODULUS_BYTES.entrySet().stream()
                .filter(entry -> entry.getValue() * 8 == key.getModulus().bitLength())
                .map(Map.Entry::getKey)
                .findAny()
                .orElse(WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED);
    }

    private static String remedy(int size, Recipe recipe) {
        if (recipe.aesKeyWrap()) {
            return "KMS takes at most " + WRAPPED_BYTES + " bytes of wrapped key material";
        }
        var wider = MODULUS_BYTES.entrySet().stream()
                .filter(entry -> recipe.capacity(entry.getValue()) >= size)
                .sorted(Map.Entry.comparingByValue())
                .map(entry -> name(entry.getKey()) + " holds " + recipe.capacity(entry.getValue()) + ", ")
                .collect(Collectors.joining());
        return wider + "RSA_AES_KEY_WRAP holds an RSA or ECC private key of any size";
    }

    private static WrappingKeyRejected rejected(String message) {
        return rejected(message, null);
    }

    private static WrappingKeyRejected rejected(String message, Throwable cause) {
        return new WrappingKeyRejected(new Details(message, "", null, null, null, Map.of(), cause));
    }

    private static MaterialUnsuitable unsuitable(String message) {
        return new MaterialUnsuitable(Details.here(message));
    }
}
