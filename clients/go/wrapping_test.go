package keyimport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"example.com/keybroker/keyimport/internal/unwrap"
)

// The bytes of key material that fit, of each wrapping, from docs/wrapping-recipes.md and by RFC 5649 from KMS's limit
// of 6,144; written out rather than computed, which is what is tested.
var capacities = map[WrappingAlgorithm]map[WrappingKeySpec]int{
	RSAESOAEPSHA1:       {RSA2048: 214, RSA3072: 342, RSA4096: 470},
	RSAESOAEPSHA256:     {RSA2048: 190, RSA3072: 318, RSA4096: 446},
	RSAAESKeyWrapSHA1:   {RSA2048: 5880, RSA3072: 5752, RSA4096: 5624},
	RSAAESKeyWrapSHA256: {RSA2048: 5880, RSA3072: 5752, RSA4096: 5624},
}

func TestWhatFitsIsUnwrappedToTheSame(t *testing.T) {
	for algorithm, ofSpec := range capacities {
		for spec, limit := range ofSpec {
			key := testKey(modulusBytes(spec) * 8)
			der := publicKeyDER(key)
			for _, size := range []int{1, 8, 9, 16, 17, 23, 24, 32, 138, limit - 1, limit} {
				material := randomBytes(size)
				wrapped, err := Wrap(material, der, algorithm, spec)
				if err != nil {
					t.Fatalf("%s %s %d: %v", algorithm, spec, size, err)
				}
				if len(wrapped) > wrappedBytes {
					t.Errorf("%s %s %d: %d bytes are more than KMS takes", algorithm, spec, size, len(wrapped))
				}
				opened, err := unwrap.Unwrap(key, string(algorithm), wrapped)
				if err != nil || !bytes.Equal(opened, material) {
					t.Errorf("%s %s %d: does not open to the same: %v", algorithm, spec, size, err)
				}
			}
		}
	}
}

func TestOneByteMoreDoesNotFit(t *testing.T) {
	for algorithm, ofSpec := range capacities {
		for spec, limit := range ofSpec {
			material := randomBytes(limit + 1)
			_, err := Wrap(material, publicKeyDER(testKey(modulusBytes(spec)*8)), algorithm, "")
			if !errors.Is(err, MaterialUnsuitable) || !strings.Contains(err.Error(), fmt.Sprint(limit)) {
				t.Errorf("%s %s: %v", algorithm, spec, err)
			}
			if err := CheckMaterial(material[1:], algorithm, spec); err != nil {
				t.Errorf("%s %s: %v", algorithm, spec, err)
			}
		}
		roomiest := slices.Max(slices.Collect(maps.Values(ofSpec)))
		fits := CheckMaterial(randomBytes(roomiest), algorithm, "")
		over := CheckMaterial(randomBytes(roomiest+1), algorithm, "")
		if fits != nil || !errors.Is(over, MaterialUnsuitable) {
			t.Errorf("%s under any key: %v, %v", algorithm, fits, over)
		}
	}
}

func TestUnsuitableMaterialAndAlgorithms(t *testing.T) {
	der := publicKeyDER(testKey(2048))
	sound := randomBytes(32)
	for _, c := range []struct {
		material  []byte
		algorithm WrappingAlgorithm
	}{
		{nil, RSAESOAEPSHA256},
		{[]byte("-----BEGIN PRIVATE KEY-----\n"), RSAAESKeyWrapSHA256},
		{sound, "RSAES_PKCS1_V1_5"},
		{sound, "SM2PKE"},
		{sound, ""},
	} {
		if _, err := Wrap(c.material, der, c.algorithm, ""); !errors.Is(err, MaterialUnsuitable) {
			t.Errorf("%d bytes, %q: %v", len(c.material), c.algorithm, err)
		}
	}
}

func TestWordsThatDoNotExistAreMisuse(t *testing.T) {
	der, material := publicKeyDER(testKey(2048)), randomBytes(32)
	_, noAlgorithm := Wrap(material, der, "RSAES_OAEP_SHA_512", RSA2048)
	_, noSpec := Wrap(material, der, RSAESOAEPSHA256, "RSA_512")
	_, unspecified := Wrap(material, der, RSAESOAEPSHA256, "UNSPECIFIED")
	for _, err := range []error{noAlgorithm, noSpec, unspecified} {
		if _, ok := errors.AsType[ArgumentError](err); !ok {
			t.Errorf("%v", err)
		}
	}
}

func TestTheSameMaterialIsNeverWrappedTheSame(t *testing.T) {
	der, material := publicKeyDER(testKey(2048)), randomBytes(32)
	for algorithm := range recipes {
		first, _ := Wrap(material, der, algorithm, RSA2048)
		second, _ := Wrap(material, der, algorithm, RSA2048)
		if bytes.Equal(first[:256], second[:256]) || len(first) > 256 && bytes.Equal(first[256:], second[256:]) {
			t.Errorf("%s", algorithm)
		}
	}
}

func TestHostilePublicKeysAreRejected(t *testing.T) {
	sound := testKey(2048).PublicKey
	der := publicKeyDER(testKey(2048))
	even := new(big.Int).Sub(sound.N, big.NewInt(1))
	short := new(big.Int).SetBit(new(big.Int).SetBit(new(big.Int), 1023, 1), 0, 1)
	ofCurve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ofEdwards, _, _ := ed25519.GenerateKey(rand.Reader)
	inner := x509.MarshalPKCS1PublicKey(&sound)
	for _, c := range []struct {
		name string
		der  []byte
		spec WrappingKeySpec
		says string
	}{
		{"exponent 3", marshal(t, &rsa.PublicKey{N: sound.N, E: 3}), "", "exponent"},
		{"exponent 1", marshal(t, &rsa.PublicKey{N: sound.N, E: 1}), "", "exponent"},
		{"even modulus", marshal(t, &rsa.PublicKey{N: even, E: 65537}), "", "even"},
		{"1024 bits", marshal(t, &rsa.PublicKey{N: short, E: 65537}), "", "1024 bits"},
		{"2047 bits", marshal(t, &rsa.PublicKey{N: new(big.Int).Rsh(sound.N, 1), E: 65537}), "", "2047 bits"},
		{"another size", der, RSA3072, "which is not RSA_3072"},
		{"of a curve", marshal(t, ofCurve.Public()), "", "not an RSA key"},
		{"of Edwards's", marshal(t, ofEdwards), "", "not an RSA key"},
		{"SM2 asked for", der, "SM2", "spec SM2"},
		{"nothing", nil, "", "no DER"},
		{"a byte behind", append(bytes.Clone(der), 0), "", "no DER"},
		{"a byte less", der[:len(der)-1], "", "no DER"},
		{"twice", append(bytes.Clone(der), der...), "", "no DER"},
		{"PEM", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "", "no DER"},
		{"base64", []byte(base64.StdEncoding.EncodeToString(der)), "", "no DER"},
		{"a long form of length", longLength(der), "", "no DER"},
		{"without NULL", info(t, asn1.RawValue{}, inner, 8*len(inner)), "", "no DER"},
		// What Go's parser lets pass.
		{"a byte behind the key inside", info(t, asn1.NullRawValue, append(inner, 0), 8*len(inner)+8), "", "canonically"},
		{"a bit less", info(t, asn1.NullRawValue, shifted(inner), 8*len(inner)-1), "", "canonically"},
	} {
		_, err := CheckPublicKey(c.der, c.spec)
		if !errors.Is(err, WrappingKeyRejected) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if wrapped, err := Wrap(randomBytes(32), c.der, RSAESOAEPSHA256, c.spec); err == nil || wrapped != nil {
			t.Errorf("%s: wrapped under it", c.name)
		}
	}
}

func TestSoundPublicKeysPass(t *testing.T) {
	for _, known := range rsaSpecs {
		der := publicKeyDER(testKey(known.modulus * 8))
		for _, spec := range []WrappingKeySpec{known.spec, ""} {
			if key, err := CheckPublicKey(der, spec); err != nil || key.Size() != known.modulus {
				t.Errorf("%s as %q: %v", known.spec, spec, err)
			}
		}
	}
}

func marshal(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// info is a SubjectPublicKeyInfo of RSA, with these parameters of the algorithm and these bits as the key.
func info(t *testing.T, parameters asn1.RawValue, key []byte, bits int) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: parameters},
		asn1.BitString{Bytes: key, BitLength: bits},
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// longLength is the DER with the first length in one byte more than needed.
func longLength(der []byte) []byte {
	return append([]byte{der[0], 0x83, 0}, der[2:]...)
}

// shifted is the bytes less their first bit, which is a zero.
func shifted(content []byte) []byte {
	number := new(big.Int).Lsh(new(big.Int).SetBytes(content), 1)
	return number.FillBytes(make([]byte, len(content)))
}

func randomBytes(size int) []byte {
	random := make([]byte, size)
	rand.Read(random)
	return random
}
