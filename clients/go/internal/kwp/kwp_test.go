package kwp

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"testing"

	"example.com/keybroker/keyimport/internal/unwrap"
)

// The two vectors of RFC 5649 section 6, in both directions.
func TestTheVectorsOfRFC5649(t *testing.T) {
	key := decode(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	for _, vector := range []struct{ material, wrapped string }{
		{
			"c37b7e6492584340bed12207808941155068f738",
			"138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
		},
		{"466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"},
	} {
		wrapped, err := Wrap(key, decode(t, vector.material))
		if err != nil || !bytes.Equal(wrapped, decode(t, vector.wrapped)) {
			t.Errorf("%s: %x, %v", vector.material, wrapped, err)
		}
		material, err := unwrap.AESKeyUnwrapPadded(key, wrapped)
		if err != nil || !bytes.Equal(material, decode(t, vector.material)) {
			t.Errorf("%s: %x, %v", vector.wrapped, material, err)
		}
		for i := range wrapped {
			wrapped[i] ^= 1
			if material, err := unwrap.AESKeyUnwrapPadded(key, wrapped); err == nil {
				t.Errorf("%x: opens to %x", wrapped, material)
			}
			wrapped[i] ^= 1
		}
	}
}

// Every length about the first blocks, and the longest that KMS takes.
func TestEveryLengthIsUnwrappedToTheSame(t *testing.T) {
	for _, size := range append(upTo(67), 5879, 5880) {
		key, material := randomBytes(32), randomBytes(size)
		wrapped, err := Wrap(key, material)
		if err != nil || len(wrapped) != (size+7)/8*8+8 {
			t.Fatalf("%d: %d, %v", size, len(wrapped), err)
		}
		if opened, err := unwrap.AESKeyUnwrapPadded(key, wrapped); err != nil || !bytes.Equal(opened, material) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestWhatIsNoWrappingIsNotUnwrapped(t *testing.T) {
	key := make([]byte, 32)
	for _, size := range []int{0, 8, 15, 16, 17, 23, 24, 4096} {
		if material, err := unwrap.AESKeyUnwrapPadded(key, make([]byte, size)); err == nil {
			t.Errorf("%d zeros open to %x", size, material)
		}
	}
}

func upTo(most int) []int {
	var sizes []int
	for size := 1; size <= most; size++ {
		sizes = append(sizes, size)
	}
	return sizes
}

func randomBytes(size int) []byte {
	random := make([]byte, size)
	rand.Read(random)
	return random
}

func decode(t *testing.T, digits string) []byte {
	t.Helper()
	decoded, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}
