// Package kwp is AES key wrap with padding, RFC 5649. It is written here because the standard library has none, and that
// of Tink takes no fewer than 16 bytes.
package kwp

import (
	"crypto/aes"
	"encoding/binary"
)

// Wrap encrypts key material under an AES key.
func Wrap(key, material []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	// Section 3: the constant and the length, and the material padded with zeros to eights. The names are RFC 3394's.
	n := (len(material) + 7) / 8
	r := make([]byte, 8+8*n)
	binary.BigEndian.PutUint32(r, 0xA65959A6)
	binary.BigEndian.PutUint32(r[4:], uint32(len(material)))
	copy(r[8:], material)
	if n == 1 {
		// Section 4.1: one block, no rounds.
		block.Encrypt(r, r)
		return r, nil
	}
	// RFC 3394 section 2.2.1: six times over all of them.
	var b [aes.BlockSize]byte
	copy(b[:8], r)
	for t := 1; t <= 6*n; t++ {
		i := (t-1)%n + 1
		copy(b[8:], r[8*i:])
		block.Encrypt(b[:], b[:])
		copy(r[8*i:], b[8:])
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(t))
	}
	copy(r, b[:8])
	return r, nil
}
