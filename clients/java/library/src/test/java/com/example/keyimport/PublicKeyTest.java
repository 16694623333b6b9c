package com.example.keyimport;

import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_SM2;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.example.keyimport.KeyImportException.WrappingKeyRejected;
import com.example.keyimport.v1.WrappingKeySpec;
import java.math.BigInteger;
import java.security.GeneralSecurityException;
import java.security.KeyPairGenerator;
import java.util.Arrays;
import java.util.HexFormat;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class PublicKeyTest {
    private static final BigInteger F4 = BigInteger.valueOf(65537);
    private static final byte[] GOOD = Keys.rsa(2048).getPublic().getEncoded();

    private static void assertRejected(byte[] der, WrappingKeySpec spec) {
        assertThrows(WrappingKeyRejected.class, () -> Wrapping.checkPublicKey(der, spec));
    }

    private static void assertRejected(byte[] der) {
        assertRejected(der, WRAPPING_KEY_SPEC_UNSPECIFIED);
        assertRejected(der, WRAPPING_KEY_SPEC_RSA_2048);
    }

    /** The good key with some of its encoding replaced, in hexadecimal. */
    private static byte[] edited(String from, String to) {
        var hex = HexFormat.of().formatHex(GOOD);
        int at = hex.indexOf(from);
        assertEquals(hex.lastIndexOf(from), at, "the edit must be of one place");
        return HexFormat.of().parseHex(hex.replace(from, to));
    }

    @Test
    void letsAKeyPassThatIsAsItShouldBe() {
        assertEquals(
                Keys.modulus(2048),
                Wrapping.checkPublicKey(GOOD, WRAPPING_KEY_SPEC_UNSPECIFIED).getModulus());
        assertEquals(
                Keys.modulus(2048),
                Wrapping.checkPublicKey(GOOD, WRAPPING_KEY_SPEC_RSA_2048).getModulus());
    }

    @Test
    void refusesAnotherSizeThanTheSpecs() {
        assertRejected(GOOD, WRAPPING_KEY_SPEC_RSA_3072);
        assertRejected(GOOD, WRAPPING_KEY_SPEC_SM2);
        assertRejected(GOOD, WrappingKeySpec.UNRECOGNIZED);
    }

    @ParameterizedTest
    @ValueSource(ints = {1024, 2040})
    void refusesASizeThatNoSpecHas(int bits) {
        assertRejected(Keys.rsa(bits).getPublic().getEncoded());
    }

    @ParameterizedTest
    @ValueSource(longs = {3, 17, 65539, 65536})
    void refusesAnotherExponent(long exponent) throws GeneralSecurityException {
        assertRejected(Keys.der(Keys.modulus(2048), BigInteger.valueOf(exponent)));
    }

    @Test
    void refusesAnExponentOfOne() {
        assertRejected(edited("0203010001", "0203000001"));
    }

    @Test
    void refusesAnEvenModulus() throws GeneralSecurityException {
        assertRejected(Keys.der(Keys.modulus(2048).subtract(BigInteger.ONE), F4));
    }

    @Test
    void refusesAnEllipticCurveKey() throws GeneralSecurityException {
        var generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(256);
        assertRejected(generator.generateKeyPair().getPublic().getEncoded());
    }

    @Test
    void refusesAnythingAfterTheKey() {
        assertRejected(Arrays.copyOf(GOOD, GOOD.length + 1));
        var twice = Arrays.copyOf(GOOD, GOOD.length * 2);
        System.arraycopy(GOOD, 0, twice, GOOD.length, GOOD.length);
        assertRejected(twice);
    }

    @Test
    void refusesOtherEncodingsOfTheSameKey() {
        assertRejected(edited("30820122", "3083000122")); // a longer length
        assertRejected(edited("30820122300d", "3080300d")); // an indefinite length
        assertRejected(
                edited("30820122300d06092a864886f70d0101010500", "30820120300b06092a864886f70d010101")); // no NULL
        assertRejected(edited("06092a864886f70d010101", "06092a864886f70d01010a")); // RSASSA-PSS
        assertRejected(edited("0382010f00", "0382010f01")); // unused bits
    }

    @Test
    void refusesWhateverElseIsNoKey() {
        for (int length = 0; length < GOOD.length; length++) {
            assertRejected(Arrays.copyOf(GOOD, length));
        }
        // All of the encoding that is not the modulus.
        for (int at = 0; at < GOOD.length; at++) {
            if (at < 33 || at >= GOOD.length - 5) {
                for (int bit = 0; bit < 8; bit++) {
                    var damaged = GOOD.clone();
                    damaged[at] ^= (byte) (1 << bit);
                    assertRejected(damaged);
                }
            }
        }
    }
}
