package keyimport

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "example.com/keybroker/keyimport/keyimportpb"
)

// A WrappingAlgorithm is how key material is encrypted under the wrapping public key, in KMS's words. The zero value
// leaves the choice to the broker, which takes the strongest that its policy and the key allow.
type WrappingAlgorithm string

// The wrapping algorithms of this library. KMS offers those of SHA-1 as well; OAEP needs no collision resistance.
const (
	RSAESOAEPSHA1       WrappingAlgorithm = "RSAES_OAEP_SHA_1"
	RSAESOAEPSHA256     WrappingAlgorithm = "RSAES_OAEP_SHA_256"
	RSAAESKeyWrapSHA1   WrappingAlgorithm = "RSA_AES_KEY_WRAP_SHA_1"
	RSAAESKeyWrapSHA256 WrappingAlgorithm = "RSA_AES_KEY_WRAP_SHA_256"
)

// A WrappingKeySpec is the kind and size of the wrapping public key, in KMS's words. The zero value leaves the choice
// to the broker, which takes the strongest that its policy and the key allow.
type WrappingKeySpec string

// The wrapping key specs of this library.
const (
	RSA2048 WrappingKeySpec = "RSA_2048"
	RSA3072 WrappingKeySpec = "RSA_3072"
	RSA4096 WrappingKeySpec = "RSA_4096"
)

// Sharing is who else may be given a parameter set. The zero value is Shared.
type Sharing string

// Shared is the same set as every other caller's until it is consumed. Exclusive is a set no one else was or will be
// given; it spends KMS's quota, and by default supersedes the key's other sets.
const (
	Shared    Sharing = "SHARED"
	Exclusive Sharing = "EXCLUSIVE"
)

// An ImportType is whether key material is new to a symmetric encryption key. The zero value leaves it to KMS.
type ImportType string

// NewKeyMaterial is material the key has never had. ExistingKeyMaterial is the very material that was imported before,
// and has since expired or been deleted.
const (
	NewKeyMaterial      ImportType = "NEW_KEY_MATERIAL"
	ExistingKeyMaterial ImportType = "EXISTING_KEY_MATERIAL"
)

// A Source is where the broker had a parameter set from.
type Source string

// The sources: KMS itself, the broker's own cache, or the store that a fleet of brokers shares.
const (
	FromKMS   Source = "KMS"
	FromCache Source = "CACHE"
	FromStore Source = "STORE"
)

// The prefixes that the names of the proto's enums have in front of KMS's words.
const (
	algorithmPrefix  = "WRAPPING_ALGORITHM_"
	specPrefix       = "WRAPPING_KEY_SPEC_"
	sharingPrefix    = "SHARING_"
	importTypePrefix = "IMPORT_TYPE_"
	sourcePrefix     = "PARAMETERS_SOURCE_"
)

// number is the proto's value of a word, or 0 of no word.
func number[Enum ~int32, Word ~string](values map[string]int32, prefix string, word Word) (Enum, error) {
	if word == "" {
		return 0, nil
	}
	value, ok := values[prefix+string(word)]
	if !ok || value == 0 {
		what := strings.ToLower(strings.ReplaceAll(prefix, "_", " "))
		return 0, ArgumentError(fmt.Sprintf("there is no %s%q", what, word))
	}
	return Enum(value), nil
}

// word is the word of a proto's value, or its number where it is newer than this library.
func word[Word ~string](value fmt.Stringer, prefix string) Word {
	return Word(strings.TrimPrefix(value.String(), prefix))
}

func (o ParametersOptions) request(keyID string) (*pb.GetParametersForImportRequest, error) {
	algorithm, err := algorithmNumber(o.WrappingAlgorithm)
	if err != nil {
		return nil, err
	}
	spec, err := specNumber(o.WrappingKeySpec)
	if err != nil {
		return nil, err
	}
	sharing, err := number[pb.Sharing](pb.Sharing_value, sharingPrefix, o.Sharing)
	if err != nil {
		return nil, err
	}
	request := &pb.GetParametersForImportRequest{
		KeyId: keyID, WrappingAlgorithm: algorithm, WrappingKeySpec: spec, Sharing: sharing,
	}
	if o.MinRemainingValidity != 0 {
		request.MinRemainingValidity = durationpb.New(o.MinRemainingValidity)
	}
	return request, nil
}

// request is what to import, still without key, token and material.
func (o ImportOptions) request() (*pb.ImportKeyMaterialRequest, error) {
	importType, err := number[pb.ImportType](pb.ImportType_value, importTypePrefix, o.ImportType)
	if err != nil {
		return nil, err
	}
	request := &pb.ImportKeyMaterialRequest{
		ImportType: importType, KeyMaterialId: o.KeyMaterialID, KeyMaterialDescription: o.KeyMaterialDescription,
	}
	validTo := timestamppb.New(o.ValidTo)
	switch {
	case o.ValidTo.IsZero() != o.NeverExpires:
		return nil, ArgumentError("choose exactly one of ValidTo and NeverExpires")
	case o.NeverExpires:
		request.Expiration = &pb.ImportKeyMaterialRequest_NeverExpires{NeverExpires: true}
	case validTo.CheckValid() != nil:
		return nil, ArgumentError("ValidTo is no date of the years 1 to 9999")
	default:
		request.Expiration = &pb.ImportKeyMaterialRequest_ValidTo{ValidTo: validTo}
	}
	return request, nil
}

func algorithmNumber(algorithm WrappingAlgorithm) (pb.WrappingAlgorithm, error) {
	return number[pb.WrappingAlgorithm](pb.WrappingAlgorithm_value, algorithmPrefix, algorithm)
}

func specNumber(spec WrappingKeySpec) (pb.WrappingKeySpec, error) {
	return number[pb.WrappingKeySpec](pb.WrappingKeySpec_value, specPrefix, spec)
}

// timeOf is the time of a timestamp, in UTC; the zero time where it is unset or no date.
func timeOf(timestamp *timestamppb.Timestamp) time.Time {
	if timestamp.CheckValid() != nil {
		return time.Time{}
	}
	return timestamp.AsTime()
}
