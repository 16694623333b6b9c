package keyimport

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // KMS offers OAEP with it; OAEP needs no collision resistance.
	_ "crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"

	"example.com/keybroker/keyimport/internal/kwp"
)

// A recipe is one wrapping algorithm: the hash of OAEP and of its MGF1, and whether an AES key stands between.
type recipe struct {
	hash       crypto.Hash
	aesKeyWrap bool
}

// https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
var recipes = map[WrappingAlgorithm]recipe{
	RSAESOAEPSHA1:       {hash: crypto.SHA1},
	RSAESOAEPSHA256:     {hash: crypto.SHA256},
	RSAAESKeyWrapSHA1:   {hash: crypto.SHA1, aesKeyWrap: true},
	RSAAESKeyWrapSHA256: {hash: crypto.SHA256, aesKeyWrap: true},
}

// rsaSpecs has the wrapping key specs of this library, smallest first.
var rsaSpecs = []struct {
	spec    WrappingKeySpec
	modulus int // bytes
}{{RSA2048, 256}, {RSA3072, 384}, {RSA4096, 512}}

const (
	publicExponent = 65537
	aesKeyBytes    = 32
	wrappedBytes   = 6144 // the most that KMS takes as EncryptedKeyMaterial
)

// Wrap wraps key material under the wrapping public key of a parameter set: for RSAES_OAEP into the one RSA block; for
// RSA_AES_KEY_WRAP into the RSA block with a fresh AES-256 key in it, followed by the key material under that key (RFC
// 5649). Material is AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER. The public key is a DER
// SubjectPublicKeyInfo; the zero spec admits an RSA key of any of the three sizes.
//
// The error is [MaterialUnsuitable] if the material does not fit or this library does not wrap with the algorithm,
// [WrappingKeyRejected] if [CheckPublicKey] does not let the key pass, an [ArgumentError] for a word that does not
// exist.
func Wrap(material, publicKey []byte, algorithm WrappingAlgorithm, spec WrappingKeySpec) ([]byte, error) {
	key, err := CheckPublicKey(publicKey, spec)
	if err != nil {
		return nil, err
	}
	how, err := recipeOf(algorithm)
	if err != nil {
		return nil, err
	}
	if err := CheckMaterial(material, algorithm, specOf(key)); err != nil {
		return nil, err
	}
	if !how.aesKeyWrap {
		return rsa.EncryptOAEP(how.hash.New(), rand.Reader, key, material, nil)
	}
	aesKey := make([]byte, aesKeyBytes)
	rand.Read(aesKey) // never fails
	defer clear(aesKey)
	first, err := rsa.EncryptOAEP(how.hash.New(), rand.Reader, key, aesKey, nil)
	if err != nil {
		return nil, err
	}
	second, err := kwp.Wrap(aesKey, material)
	if err != nil {
		return nil, err
	}
	return append(first, second...), nil
}

// CheckPublicKey parses a wrapping public key. The error is [WrappingKeyRejected] if it is anything but one canonical
// DER SubjectPublicKeyInfo of an RSA key of exactly the spec's size, with the exponent 65537 and an odd modulus. The
// zero spec admits the three RSA specs.
func CheckPublicKey(der []byte, spec WrappingKeySpec) (*rsa.PublicKey, error) {
	if _, err := specNumber(spec); err != nil {
		return nil, err
	}
	if spec != "" && modulusBytes(spec) == 0 {
		return nil, rejected("this library does not wrap under a key of spec %s", spec)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, rejected("the public key is no DER SubjectPublicKeyInfo")
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, rejected("the public key is not an RSA key")
	}
	if canonical, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(canonical, der) {
		return nil, rejected("the public key is not encoded canonically")
	}
	switch actual := specOf(key); {
	case actual == "":
		return nil, rejected("the public key is an RSA key of %d bits, which is no wrapping key spec", key.N.BitLen())
	case spec != "" && spec != actual:
		return nil, rejected("the public key is an RSA key of %d bits, which is not %s", key.N.BitLen(), spec)
	}
	// The parser lets these two pass. Under either of them the wrapped material would be open to whoever sent the key.
	if key.E != publicExponent {
		return nil, rejected("the public key's exponent is not %d", publicExponent)
	}
	if key.N.Bit(0) == 0 {
		return nil, rejected("the public key's modulus is even, so it is no RSA modulus")
	}
	return key, nil
}

// CheckMaterial refuses with [MaterialUnsuitable] what can be seen to be unfit before a parameter set is spent on it:
// what is empty, PEM text, or does not fit. The zero algorithm and spec stand for one that is not known yet.
func CheckMaterial(material []byte, algorithm WrappingAlgorithm, spec WrappingKeySpec) error {
	if _, err := specNumber(spec); err != nil {
		return err
	}
	if len(material) == 0 {
		return unsuitable("the key material is empty")
	}
	if bytes.HasPrefix(material, []byte("-----BEGIN")) {
		return unsuitable("the key material is PEM text; KMS takes a private key as PKCS#8 DER")
	}
	if algorithm == "" {
		return nil
	}
	how, err := recipeOf(algorithm)
	if err != nil {
		return err
	}
	// Of a spec that is not known yet: what the roomiest holds.
	limit, under := 0, "an RSA key"
	for _, known := range rsaSpecs {
		if modulusBytes(spec) == 0 || known.spec == spec {
			limit = max(limit, how.capacity(known.modulus))
		}
	}
	if modulusBytes(spec) != 0 {
		under = string(spec)
	}
	if len(material) > limit {
		return unsuitable("%d bytes of key material do not fit %s under %s, which holds at most %d bytes; %s",
			len(material), algorithm, under, limit, how.remedy(len(material)))
	}
	return nil
}

// capacity is the most bytes of key material; RFC 8017 section 7.1.1, and RFC 5649: eights, and eight more.
func (r recipe) capacity(modulus int) int {
	if r.aesKeyWrap {
		return (wrappedBytes-modulus)/8*8 - 8
	}
	return modulus - 2*r.hash.Size() - 2
}

func (r recipe) remedy(size int) string {
	if r.aesKeyWrap {
		return fmt.Sprintf("KMS takes at most %d bytes of wrapped key material", wrappedBytes)
	}
	var remedies strings.Builder
	for _, known := range rsaSpecs {
		if limit := r.capacity(known.modulus); size <= limit {
			fmt.Fprintf(&remedies, "%s holds %d, ", known.spec, limit)
		}
	}
	return remedies.String() + "RSA_AES_KEY_WRAP holds an RSA or ECC private key of any size"
}

func recipeOf(algorithm WrappingAlgorithm) (recipe, error) {
	if _, err := algorithmNumber(algorithm); err != nil {
		return recipe{}, err
	}
	how, ok := recipes[algorithm]
	switch {
	case ok:
		return how, nil
	case algorithm == "RSAES_PKCS1_V1_5":
		return recipe{}, unsuitable("%s is deprecated, and KMS has refused it since 2023-10-10", algorithm)
	default:
		return recipe{}, unsuitable("this library does not wrap with %q", algorithm)
	}
}

// modulusBytes is 0 if the spec is not of RSA.
func modulusBytes(spec WrappingKeySpec) int {
	for _, known := range rsaSpecs {
		if known.spec == spec {
			return known.modulus
		}
	}
	return 0
}

// specOf is empty if the key is of no spec's size.
func specOf(key *rsa.PublicKey) WrappingKeySpec {
	for _, known := range rsaSpecs {
		if known.modulus*8 == key.N.BitLen() {
			return known.spec
		}
	}
	return ""
}
