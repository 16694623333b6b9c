package com.example.keyimport.driver;

import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.interfaces.RSAPrivateKey;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Arrays;
import javax.crypto.Cipher;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import javax.crypto.spec.SecretKeySpec;

/** What KMS does: the inverse of wrapping. */
final class Unwrapping {
    private Unwrapping() {}

    static byte[] unwrap(byte[] privateKey, String algorithm, byte[] wrapped) throws GeneralSecurityException {
        var key = (RSAPrivateKey) KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(privateKey));
        var hash = algorithm.endsWith("_SHA_1") ? MGF1ParameterSpec.SHA1 : MGF1ParameterSpec.SHA256;
        var rsa = Cipher.getInstance("RSA/ECB/OAEPPadding");
        rsa.init(
                Cipher.DECRYPT_MODE,
                key,
                new OAEPParameterSpec(hash.getDigestAlgorithm(), "MGF1", hash, PSource.PSpecified.DEFAULT));
        if (algorithm.startsWith("RSAES_OAEP_")) {
            return rsa.doFinal(wrapped);
        }
        int modulusBytes = key.getModulus().bitLength() / 8;
        var aesKey = rsa.doFinal(wrapped, 0, modulusBytes);
        var aes = Cipher.getInstance("AES/KWP/NoPadding");
        aes.init(Cipher.DECRYPT_MODE, new SecretKeySpec(aesKey, "AES"));
        return aes.doFinal(Arrays.copyOfRange(wrapped, modulusBytes, wrapped.length));
    }
}
