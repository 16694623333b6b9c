package com.example.keyimport;

import static com.example.keyimport.v1.WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1;
import static com.example.keyimport.v1.WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256;
import static com.example.keyimport.v1.WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_1;
import static com.example.keyimport.v1.WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256;
import static com.example.keyimport.v1.WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096;
import static com.example.keyimport.v1.WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.example.keyimport.KeyImportException.MaterialUnsuitable;
import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

class WrappingTest {
    private static byte[] material(int bytes) {
        var material = new byte[bytes];
        new Random(bytes).nextBytes(material);
        return material;
    }

    /** The limits of KMS's documentation for OAEP, and of 6,144 bytes for the others; counted by hand. */
    static Stream<Arguments> limits() {
        return Stream.of(
                Arguments.of(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1, WRAPPING_KEY_SPEC_RSA_2048, 214),
                Arguments.of(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1, WRAPPING_KEY_SPEC_RSA_3072, 342),
                Arguments.of(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1, WRAPPING_KEY_SPEC_RSA_4096, 470),
                Arguments.of(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256, WRAPPING_KEY_SPEC_RSA_2048, 190),
                Arguments.of(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256, WRAPPING_KEY_SPEC_RSA_3072, 318),
                Arguments.of(WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256, WRAPPING_KEY_SPEC_RSA_4096, 446),
                Arguments.of(WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_1, WRAPPING_KEY_SPEC_RSA_2048, 5880),
                Arguments.of(WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_1, WRAPPING_KEY_SPEC_RSA_3072, 5752),
                Arguments.of(WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256, WRAPPING_KEY_SPEC_RSA_2048, 5880),
                Arguments.of(WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256, WRAPPING_KEY_SPEC_RSA_4096, 5624));
    }

    @ParameterizedTest
    @MethodSource("limits")
    void wrapsUpToTheLimitAndNotOneByteMore(WrappingAlgorithm algorithm, WrappingKeySpec spec, int limit)
            throws GeneralSecurityException {
        var pair = Keys.of(spec);
        var publicKey = pair.getPublic().getEncoded();
        for (int size : new int[] {1, 7, 8, 32, limit}) {
            var wrapped = Wrapping.wrap(material(size), publicKey, algorithm, spec);
            assertTrue(wrapped.length <= 6144);
            assertArrayEquals(material(size), Keys.unwrap(wrapped, pair, algorithm));
        }
        assertThrows(MaterialUnsuitable.class, () -> Wrapping.wrap(material(limit + 1), publicKey, algorithm, spec));
        assertThrows(
                MaterialUnsuitable.class,
                () -> Wrapping.wrap(material(limit + 1), publicKey, algorithm, WRAPPING_KEY_SPEC_UNSPECIFIED));
        assertThrows(MaterialUnsuitable.class, () -> Wrapping.checkMaterial(material(limit + 1), algorithm, spec));
    }

    @ParameterizedTest
    @CsvSource({
        "c37b7e6492584340bed12207808941155068f738, 138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        "466f7250617369, afbeb0f07dfbf5419200f2ccb50bb24f"
    })
    void wrapsTheVectorsOfRfc5649(String plain, String wrapped) {
        var hex = HexFormat.of();
        var kek = hex.parseHex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8");
        assertEquals(wrapped, hex.formatHex(Wrapping.aesKeyWrap(kek, hex.parseHex(plain))));
    }

    @Test
    void usesAFreshAesKeyEachTime() {
        var publicKey = Keys.rsa(2048).getPublic().getEncoded();
        var tails = Stream.generate(() -> Wrapping.wrap(
                        material(32),
                        publicKey,
                        WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256,
                        WRAPPING_KEY_SPEC_RSA_2048))
                .limit(2)
                .map(wrapped -> Arrays.copyOfRange(wrapped, 256, wrapped.length))
                .toList();
        assertFalse(Arrays.equals(tails.get(0), tails.get(1)));
    }

    @ParameterizedTest
    @EnumSource(
            value = WrappingAlgorithm.class,
            names = {
                "WRAPPING_ALGORITHM_UNSPECIFIED",
                "WRAPPING_ALGORITHM_RSAES_PKCS1_V1_5",
                "WRAPPING_ALGORITHM_SM2PKE"
            })
    void refusesOtherAlgorithms(WrappingAlgorithm algorithm) {
        var publicKey = Keys.rsa(2048).getPublic().getEncoded();
        assertThrows(
                MaterialUnsuitable.class,
                () -> Wrapping.wrap(material(32), publicKey, algorithm, WRAPPING_KEY_SPEC_UNSPECIFIED));
    }

    @Test
    void refusesWhatIsNoKeyMaterialBeforeTheAlgorithmIsKnown() {
        for (var text : new String[] {"", "-----BEGIN PRIVATE KEY-----\n"}) {
            assertThrows(
                    MaterialUnsuitable.class,
                    () -> Wrapping.checkMaterial(
                            text.getBytes(StandardCharsets.US_ASCII),
                            WRAPPING_ALGORITHM_UNSPECIFIED,
                            WRAPPING_KEY_SPEC_UNSPECIFIED));
        }
        Wrapping.checkMaterial(material(7000), WRAPPING_ALGORITHM_UNSPECIFIED, WRAPPING_KEY_SPEC_UNSPECIFIED);
    }
}
