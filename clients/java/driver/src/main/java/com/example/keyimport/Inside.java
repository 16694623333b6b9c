package com.example.keyimport;

/** What the driver tests of the library beside what is public. */
public final class Inside {
    private Inside() {}

    /**
     * The second step of RSA_AES_KEY_WRAP alone, under a key that is given.
     *
     * @param aesKey of AES-256
     * @param material in plain text
     * @return the material wrapped by RFC 5649
     */
    public static byte[] aesKeyWrap(byte[] aesKey, byte[] material) {
        return Wrapping.aesKeyWrap(aesKey, material);
    }
}
