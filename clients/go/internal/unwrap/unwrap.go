// Package unwrap opens what the library has wrapped, as KMS would. It is for tests and for the driver of the
// conformance tests, and shares no code with the library, so that a mistake in one is not made in the other.
package unwrap

import (
	"crypto"
	"crypto/aes"
	"crypto/rsa"
	_ "crypto/sha1" // KMS offers OAEP with it.
	_ "crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Unwrap opens wrapped key material with the private key of the parameter set. The algorithm is KMS's word.
func Unwrap(key *rsa.PrivateKey, algorithm string, wrapped []byte) ([]byte, error) {
	var hash crypto.Hash
	scheme, aesKeyWrap := strings.CutPrefix(algorithm, "RSA_AES_KEY_WRAP_")
	if !aesKeyWrap {
		scheme = strings.TrimPrefix(algorithm, "RSAES_OAEP_")
	}
	switch scheme {
	case "SHA_1":
		hash = crypto.SHA1
	case "SHA_256":
		hash = crypto.SHA256
	default:
		return nil, fmt.Errorf("nothing is unwrapped with %q", algorithm)
	}
	oaep := &rsa.OAEPOptions{Hash: hash, MGFHash: hash}
	if !aesKeyWrap {
		return key.Decrypt(nil, wrapped, oaep)
	}
	if len(wrapped) < key.Size() {
		return nil, errors.New("shorter than the modulus")
	}
	aesKey, err := key.Decrypt(nil, wrapped[:key.Size()], oaep)
	if err != nil {
		return nil, err
	}
	if len(aesKey) != 32 {
		return nil, fmt.Errorf("an AES key of %d bytes", len(aesKey))
	}
	return AESKeyUnwrapPadded(aesKey, wrapped[key.Size():])
}

// AESKeyUnwrapPadded opens what was wrapped by RFC 5649.
func AESKeyUnwrapPadded(key, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if len(wrapped) < 16 || len(wrapped)%8 != 0 {
		return nil, errors.New("not of eights, sixteen at least")
	}
	// RFC 3394 section 2.2.2, with the names used there; of two blocks alone RFC 5649 section 4.2 makes one of AES.
	n := len(wrapped)/8 - 1
	r := append([]byte(nil), wrapped...)
	var b [16]byte
	if n == 1 {
		block.Decrypt(r, r)
	} else {
		a := binary.BigEndian.Uint64(r)
		for t := 6 * n; t > 0; t-- {
			i := (t-1)%n + 1
			binary.BigEndian.PutUint64(b[:8], a^uint64(t))
			copy(b[8:], r[8*i:8*i+8])
			block.Decrypt(b[:], b[:])
			a = binary.BigEndian.Uint64(b[:8])
			copy(r[8*i:], b[8:])
		}
		binary.BigEndian.PutUint64(r, a)
	}
	// RFC 5649 section 3: the constant, the length, and at most seven zeros behind.
	const constant = 0xA65959A6
	length, padded := int(binary.BigEndian.Uint32(r[4:])), r[8:]
	if binary.BigEndian.Uint32(r) != constant || length > len(padded) || length+8 <= len(padded) {
		return nil, errors.New("not wrapped under this key")
	}
	for _, pad := range padded[length:] {
		if pad != 0 {
			return nil, errors.New("not padded with zeros")
		}
	}
	return padded[:length], nil
}
