package com.example.keyimport;

import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import java.math.BigInteger;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.interfaces.RSAPublicKey;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.RSAPublicKeySpec;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import javax.crypto.Cipher;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import javax.crypto.spec.SecretKeySpec;

/** RSA keys, each size made once, and what KMS does with them. */
final class Keys {
    private static final Map<Integer, KeyPair> PAIRS = new ConcurrentHashMap<>();

    private Keys() {}

    static KeyPair rsa(int bits) {
        return PAIRS.computeIfAbsent(bits, size -> {
            try {
                var generator = KeyPairGenerator.getInstance("RSA");
                generator.initialize(size);
                return generator.generateKeyPair();
            } catch (GeneralSecurityException error) {
                throw new AssertionError(error);
            }
        });
    }

    static KeyPair of(WrappingKeySpec spec) {
        return rsa(Integer.parseInt(spec.name().substring("WRAPPING_KEY_SPEC_RSA_".length())));
    }

    /** A public key's DER that JCA makes of any two numbers. */
    static byte[] der(BigInteger modulus, BigInteger exponent) throws GeneralSecurityException {
        return KeyFactory.getInstance("RSA")
                .generatePublic(new RSAPublicKeySpec(modulus, exponent))
                .getEncoded();
    }

    static BigInteger modulus(int bits) {
        return ((RSAPublicKey) rsa(bits).getPublic()).getModulus();
    }

    static byte[] unwrap(byte[] wrapped, KeyPair pair, WrappingAlgorithm algorithm) throws GeneralSecurityException {
        var hash = algorithm.name().endsWith("SHA_1") ? MGF1ParameterSpec.SHA1 : MGF1ParameterSpec.SHA256;
        var rsa = Cipher.getInstance("RSA/ECB/OAEPPadding");
        rsa.init(
                Cipher.DECRYPT_MODE,
                pair.getPrivate(),
                new OAEPParameterSpec(hash.getDigestAlgorithm(), "MGF1", hash, PSource.PSpecified.DEFAULT));
        if (!algorithm.name().contains("AES_KEY_WRAP")) {
            return rsa.doFinal(wrapped);
        }
        int block = ((RSAPublicKey) pair.getPublic()).getModulus().bitLength() / 8;
        var aes = Cipher.getInstance("AES/KWP/NoPadding");
        aes.init(Cipher.DECRYPT_MODE, new SecretKeySpec(rsa.doFinal(wrapped, 0, block), "AES"));
        return aes.doFinal(Arrays.copyOfRange(wrapped, block, wrapped.length));
    }
}
