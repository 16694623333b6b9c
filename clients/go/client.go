// Package keyimport imports key material into AWS KMS through keybroker. The material is wrapped in this process and
// leaves it only wrapped.
//
//	client, err := keyimport.New("unix:/run/keybroker/keybroker.sock")
//	if err != nil { ... }
//	defer client.Close()
//	imported, err := client.ImportKeyMaterial(ctx, keyID, material, keyimport.ImportOptions{NeverExpires: true})
//
// The context's deadline is the timeout of a whole method, retries included, and is told to the broker; a context
// without a deadline is given 30 seconds. Keys are named by key id, which means a key of the broker's first Region, or
// by key ARN.
//
// An error is an [*Error], whose [Kind] errors.Is looks for, or an [ArgumentError] for a misuse of this library. A
// refusal that the broker says when to repeat is repeated then, unless the time left is too short. A call that changes
// no key is repeated also while the broker is away. But for [Client.ImportKeyMaterial], which renews a refused token,
// nothing else is tried again.
package keyimport

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	pb "example.com/keybroker/keyimport/keyimportpb"
)

// A Client is a connection to a broker, for any number of goroutines; [New] makes one.
type Client struct {
	connection *grpc.ClientConn
	stub       pb.KeyImportServiceClient
}

// ParametersOptions is what set to get. The zero value leaves all of it to the broker.
type ParametersOptions struct {
	WrappingAlgorithm WrappingAlgorithm
	WrappingKeySpec   WrappingKeySpec
	// MinRemainingValidity is the least time, up to 23 hours, that the set must remain valid; 0 leaves it to the broker.
	MinRemainingValidity time.Duration
	Sharing              Sharing
}

// ImportOptions is how to import. Exactly one of ValidTo and NeverExpires has to be chosen; the rest is optional.
type ImportOptions struct {
	// ValidTo is when KMS deletes the key material, at most 365 days ahead; the key is unusable from then on.
	ValidTo time.Time
	// NeverExpires is that the key material does not expire.
	NeverExpires bool
	// ImportType is whether the material is new to a symmetric encryption key.
	ImportType ImportType
	// KeyMaterialID is the id of known material of a symmetric encryption key, 64 lower-case hexadecimal digits.
	KeyMaterialID string
	// KeyMaterialDescription is a note stored with the material of a symmetric encryption key, at most 256 characters.
	KeyMaterialDescription string
	// Parameters is what to wrap under; not for ImportWrapped.
	Parameters ParametersOptions
}

// Imported is what was imported.
type Imported struct {
	// KeyARN is the key's ARN.
	KeyARN string
	// KeyMaterialID is the id KMS gave to the material; empty unless the key is a symmetric encryption key.
	KeyMaterialID string
	// PublicKeySHA256 is of the public key it was wrapped under; zero if it was wrapped elsewhere.
	PublicKeySHA256 [sha256.Size]byte
}

// Deleted is what was deleted.
type Deleted struct {
	// KeyARN is the key's ARN.
	KeyARN string
	// KeyMaterialID is the id of the material; empty unless the key is a symmetric encryption key.
	KeyMaterialID string
}

// Status is what KMS tells of a key.
type Status struct {
	// KeyARN is the key's ARN.
	KeyARN string
	// KeySpec is the key's spec in KMS's words, such as SYMMETRIC_DEFAULT or RSA_2048.
	KeySpec string
	// KeyState is the key's state in KMS's words, such as PendingImport or Enabled.
	KeyState string
	// ExternalOrigin is whether the key takes imported key material.
	ExternalOrigin bool
	// MaterialValidTo is when KMS deletes the material, in UTC; zero if the key holds none, or holds it for ever.
	MaterialValidTo time.Time
	// MultiRegion is whether it is a multi-Region key; each replica needs the same material imported.
	MultiRegion bool
}

// Close ends the connection; calls under way end with an error.
func (c *Client) Close() error { return c.connection.Close() }

// GetParameters gets a parameter set for a key and checks it. The error is [WrappingKeyRejected] if the broker's answer
// contradicts itself or the request.
func (c *Client) GetParameters(ctx context.Context, keyID string, options ParametersOptions) (*Parameters, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	request, err := options.request(keyID)
	if err != nil {
		return nil, err
	}
	answer, err := call(ctx, c.connection, c.stub.GetParametersForImport, request, readsOnly)
	if err != nil {
		return nil, err
	}
	return checked(answer, request)
}

// ImportKeyMaterial gets a parameter set, checks it, wraps the key material under it and imports that. Material is AES
// and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER. A token that KMS does not accept is answered
// once, by a new set and a new wrapping.
//
// The error is [MaterialUnsuitable] if the material cannot be wrapped, and nothing was imported; [OutcomeUnknown] if
// the key has to be looked at before trying again.
func (c *Client) ImportKeyMaterial(
	ctx context.Context, keyID string, material []byte, options ImportOptions,
) (*Imported, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	wrapping := options.Parameters
	if err := CheckMaterial(material, wrapping.WrappingAlgorithm, wrapping.WrappingKeySpec); err != nil {
		return nil, err
	}
	imported, err := c.importOnce(ctx, keyID, material, options)
	if errors.Is(err, ImportTokenRefused) {
		// The broker forgets a set when it learns this, so the next one is another.
		return c.importOnce(ctx, keyID, material, options)
	}
	return imported, err
}

// ImportWrapped imports key material that was wrapped elsewhere, such as in an HSM, under the public key of the set
// that the token is of. The error is [OutcomeUnknown] if the key has to be looked at before trying again.
func (c *Client) ImportWrapped(
	ctx context.Context, keyID string, encryptedKeyMaterial, importToken []byte, options ImportOptions,
) (*Imported, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if options.Parameters != (ParametersOptions{}) {
		return nil, ArgumentError("what is wrapped already takes no Parameters")
	}
	request, err := options.request()
	if err != nil {
		return nil, err
	}
	request.KeyId, request.ImportToken, request.EncryptedKeyMaterial = keyID, importToken, encryptedKeyMaterial
	return c.send(ctx, request)
}

// DeleteImportedKeyMaterial deletes key material: the key is unusable until the same material is imported again. An
// empty id means the current material; another one is for symmetric encryption keys only. The error is [OutcomeUnknown]
// if the key has to be looked at before trying again.
func (c *Client) DeleteImportedKeyMaterial(ctx context.Context, keyID, keyMaterialID string) (*Deleted, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	request := &pb.DeleteImportedKeyMaterialRequest{KeyId: keyID, KeyMaterialId: keyMaterialID}
	answer, err := call(ctx, c.connection, c.stub.DeleteImportedKeyMaterial, request, changesKey)
	if err != nil {
		return nil, err
	}
	if err := requireSameKey(answer.GetKeyArn(), keyID); err != nil {
		return nil, err
	}
	return &Deleted{KeyARN: answer.GetKeyArn(), KeyMaterialID: answer.GetKeyMaterialId()}, nil
}

// Discard reports a parameter set as spent or suspect, so that the broker hands it to no one any more.
func (c *Client) Discard(ctx context.Context, keyID string, importToken []byte) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	request := &pb.DiscardParametersRequest{KeyId: keyID, ImportToken: importToken}
	_, err := call(ctx, c.connection, c.stub.DiscardParameters, request, readsOnly)
	return err
}

// Status is what KMS tells of a key now, such as whether an import of unknown outcome was made.
func (c *Client) Status(ctx context.Context, keyID string) (*Status, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	request := &pb.GetKeyImportStatusRequest{KeyId: keyID}
	answer, err := call(ctx, c.connection, c.stub.GetKeyImportStatus, request, readsOnly)
	if err != nil {
		return nil, err
	}
	if !namesKey(answer.GetKeyArn(), keyID) {
		message := fmt.Sprintf("the broker's answer is refused: it is for %q, not for %q", answer.GetKeyArn(), keyID)
		return nil, &Error{Message: message}
	}
	if answer.MaterialValidTo != nil && answer.MaterialValidTo.CheckValid() != nil {
		return nil, &Error{Message: "the broker's answer is refused: the material's expiry is no date"}
	}
	return &Status{
		KeyARN:          answer.GetKeyArn(),
		KeySpec:         answer.GetKeySpec(),
		KeyState:        answer.GetKeyState(),
		ExternalOrigin:  answer.GetExternalOrigin(),
		MaterialValidTo: timeOf(answer.GetMaterialValidTo()),
		MultiRegion:     answer.GetMultiRegion(),
	}, nil
}

func (c *Client) importOnce(
	ctx context.Context, keyID string, material []byte, options ImportOptions,
) (*Imported, error) {
	// First, so that a misuse is found before a parameter set is spent on it.
	request, err := options.request()
	if err != nil {
		return nil, err
	}
	set, err := c.GetParameters(ctx, keyID, options.Parameters)
	if err != nil {
		return nil, err
	}
	// The ARN rather than the caller's key id: what was checked is what is imported into.
	request.KeyId, request.ImportToken = set.KeyARN, set.ImportToken
	if request.EncryptedKeyMaterial, err = set.Wrap(material); err != nil {
		return nil, err
	}
	imported, err := c.send(ctx, request)
	if err != nil {
		return nil, err
	}
	imported.PublicKeySHA256 = set.PublicKeySHA256
	return imported, nil
}

func (c *Client) send(ctx context.Context, request *pb.ImportKeyMaterialRequest) (*Imported, error) {
	answer, err := call(ctx, c.connection, c.stub.ImportKeyMaterial, request, changesKey)
	if err != nil {
		return nil, err
	}
	if err := requireSameKey(answer.GetKeyArn(), request.GetKeyId()); err != nil {
		return nil, err
	}
	return &Imported{KeyARN: answer.GetKeyArn(), KeyMaterialID: answer.GetKeyMaterialId()}, nil
}

func requireSameKey(keyARN, keyID string) error {
	if namesKey(keyARN, keyID) {
		return nil
	}
	message := fmt.Sprintf("the broker answered for %q, not for %q; look at both keys", keyARN, keyID)
	return &Error{Kind: OutcomeUnknown, Message: message}
}
