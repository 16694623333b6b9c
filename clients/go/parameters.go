package keyimport

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	pb "example.com/keybroker/keyimport/keyimportpb"
)

// Parameters is a parameter set that has been checked. Its public key and import token belong together: never use one
// with the other of another set. However it is printed or logged, the token is not.
type Parameters struct {
	// KeyARN is the key's ARN.
	KeyARN string
	// PublicKey is the wrapping public key, a DER SubjectPublicKeyInfo.
	PublicKey []byte
	// ImportToken is opaque, and goes with the key material wrapped under PublicKey.
	ImportToken []byte
	// ValidTo is when KMS stops accepting the token, in UTC.
	ValidTo time.Time
	// WrappingAlgorithm is what to wrap with.
	WrappingAlgorithm WrappingAlgorithm
	// WrappingKeySpec is the kind and size of PublicKey.
	WrappingKeySpec WrappingKeySpec
	// PublicKeySHA256 is the SHA-256 of PublicKey.
	PublicKeySHA256 [sha256.Size]byte
	// Source is where the broker had the set from.
	Source Source
}

// Fingerprint is PublicKeySHA256 as the broker's audit log shows it, in hexadecimal.
func (p Parameters) Fingerprint() string { return hex.EncodeToString(p.PublicKeySHA256[:]) }

// Wrap wraps key material for import with this set; see [Wrap] for its form and the errors.
func (p Parameters) Wrap(material []byte) ([]byte, error) {
	return Wrap(material, p.PublicKey, p.WrappingAlgorithm, p.WrappingKeySpec)
}

// String tells everything but the public key, of which it tells the fingerprint, and the import token.
func (p Parameters) String() string {
	return fmt.Sprintf("Parameters{%s %s %s fingerprint=%s valid_to=%s import_token=<%d bytes>}", p.KeyARN,
		p.WrappingAlgorithm, p.WrappingKeySpec, p.Fingerprint(), p.ValidTo.Format(time.RFC3339), len(p.ImportToken))
}

// Format writes the String, whatever the verb: %#v and %x would otherwise spell the token out.
func (p Parameters) Format(state fmt.State, _ rune) { io.WriteString(state, p.String()) }

// LogValue is the String.
func (p Parameters) LogValue() slog.Value { return slog.StringValue(p.String()) }

// checked is the broker's answer as a parameter set, or a WrappingKeyRejected if it contradicts itself or the request.
func checked(answer *pb.GetParametersForImportResponse, asked *pb.GetParametersForImportRequest) (*Parameters, error) {
	set := &Parameters{
		KeyARN:            answer.GetKeyArn(),
		PublicKey:         answer.GetPublicKey(),
		ImportToken:       answer.GetImportToken(),
		ValidTo:           timeOf(answer.GetParametersValidTo()),
		WrappingAlgorithm: word[WrappingAlgorithm](answer.GetWrappingAlgorithm(), algorithmPrefix),
		WrappingKeySpec:   word[WrappingKeySpec](answer.GetWrappingKeySpec(), specPrefix),
		PublicKeySHA256:   sha256.Sum256(answer.GetPublicKey()),
		Source:            word[Source](answer.GetSource(), sourcePrefix),
	}
	_, wrappable := recipes[set.WrappingAlgorithm]
	switch algorithm, spec := asked.GetWrappingAlgorithm(), asked.GetWrappingKeySpec(); {
	case !namesKey(set.KeyARN, asked.GetKeyId()):
		return nil, contradiction("it is for %q, not for %q", set.KeyARN, asked.GetKeyId())
	case algorithm != 0 && algorithm != answer.GetWrappingAlgorithm():
		return nil, contradiction("%s is not the wrapping algorithm asked for", set.WrappingAlgorithm)
	case spec != 0 && spec != answer.GetWrappingKeySpec():
		return nil, contradiction("%s is not the wrapping key spec asked for", set.WrappingKeySpec)
	case !wrappable:
		return nil, contradiction("this library does not wrap with %s", set.WrappingAlgorithm)
	case modulusBytes(set.WrappingKeySpec) == 0:
		return nil, contradiction("this library does not wrap under a key of spec %s", set.WrappingKeySpec)
	case !bytes.Equal(set.PublicKeySHA256[:], answer.GetPublicKeySha256()):
		return nil, contradiction("the public key has another SHA-256")
	case len(set.ImportToken) == 0:
		return nil, contradiction("the import token is empty")
	case set.ValidTo.IsZero():
		return nil, contradiction("its expiry is no date")
	case !set.ValidTo.After(time.Now()):
		return nil, contradiction("it expired at %s", set.ValidTo.Format(time.RFC3339))
	}
	if _, err := CheckPublicKey(set.PublicKey, set.WrappingKeySpec); err != nil {
		return nil, err
	}
	return set, nil
}

func contradiction(format string, arguments ...any) error {
	return rejected("the broker's answer is refused: "+format, arguments...)
}

// namesKey says whether the ARN is the asked one or, if a bare key id was asked for, ends in that.
func namesKey(keyARN, keyID string) bool {
	return keyARN == keyID || !strings.HasPrefix(keyID, "arn:") && strings.HasSuffix(keyARN, ":key/"+keyID)
}
