// Command conformance is the driver of the conformance tests: it does with the library what it is told, one JSON object
// a line. tests/conformance/DRIVER.md has the protocol.
package main

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"example.com/keybroker/keyimport"
	"example.com/keybroker/keyimport/internal/kwp"
	"example.com/keybroker/keyimport/internal/unwrap"
)

// A request has the fields of all the things there are to do.
type request struct {
	Do string `json:"do"`

	Target      string `json:"target"`
	CA          string `json:"ca"`
	Certificate string `json:"certificate"`
	// PrivateKey is a path to connect, and base64 to unwrap.
	PrivateKey string `json:"private_key"`

	KeyID     string `json:"key_id"`
	TimeoutMS *int64 `json:"timeout_ms"`

	WrappingAlgorithm   keyimport.WrappingAlgorithm `json:"wrapping_algorithm"`
	WrappingKeySpec     keyimport.WrappingKeySpec   `json:"wrapping_key_spec"`
	MinRemainingSeconds float64                     `json:"min_remaining_seconds"`
	Sharing             keyimport.Sharing           `json:"sharing"`

	Material               []byte               `json:"material"`
	EncryptedKeyMaterial   []byte               `json:"encrypted_key_material"`
	ImportToken            []byte               `json:"import_token"`
	ValidTo                time.Time            `json:"valid_to"`
	NeverExpires           bool                 `json:"never_expires"`
	ImportType             keyimport.ImportType `json:"import_type"`
	KeyMaterialID          string               `json:"key_material_id"`
	KeyMaterialDescription string               `json:"key_material_description"`

	PublicKey []byte `json:"public_key"`
	Wrapped   []byte `json:"wrapped"`
	Key       []byte `json:"key"`
}

type answer map[string]any

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func serve(in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	requests.DisallowUnknownFields()
	driver := &driver{}
	for {
		var asked request
		if err := requests.Decode(&asked); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		told, err := driver.do(asked)
		if err == nil {
			err = answers.Encode(answer{"ok": told})
		} else if refusal, ok := describe(err); ok {
			err = answers.Encode(answer{"error": refusal})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", asked.Do, err)
		}
	}
}

type driver struct{ client *keyimport.Client }

func (d *driver) do(asked request) (answer, error) {
	ctx := context.Background()
	if asked.TimeoutMS != nil {
		limited, cancel := context.WithTimeout(ctx, time.Duration(*asked.TimeoutMS)*time.Millisecond)
		defer cancel()
		ctx = limited
	}
	switch asked.Do {
	case "connect":
		return answer{}, d.connect(asked)
	case "wrap":
		wrapped, err := keyimport.Wrap(asked.Material, asked.PublicKey, asked.WrappingAlgorithm, asked.WrappingKeySpec)
		return answer{"wrapped": wrapped}, err
	case "aes_key_wrap":
		wrapped, err := kwp.Wrap(asked.Key, asked.Material)
		return answer{"wrapped": wrapped}, err
	case "unwrap":
		material, err := unwrapped(asked)
		return answer{"material": material}, err
	}
	if d.client == nil {
		return nil, errors.New("not connected")
	}
	switch asked.Do {
	case "get":
		return d.get(ctx, asked)
	case "import":
		imported, err := d.client.ImportKeyMaterial(ctx, asked.KeyID, asked.Material, asked.importOptions(true))
		if err != nil {
			return nil, err
		}
		return answer{
			"key_arn": imported.KeyARN, "key_material_id": imported.KeyMaterialID,
			"public_key_sha256": hex.EncodeToString(imported.PublicKeySHA256[:]),
		}, nil
	case "import_wrapped":
		imported, err := d.client.ImportWrapped(
			ctx, asked.KeyID, asked.EncryptedKeyMaterial, asked.ImportToken, asked.importOptions(false))
		if err != nil {
			return nil, err
		}
		return answer{"key_arn": imported.KeyARN, "key_material_id": imported.KeyMaterialID}, nil
	case "delete":
		deleted, err := d.client.DeleteImportedKeyMaterial(ctx, asked.KeyID, asked.KeyMaterialID)
		if err != nil {
			return nil, err
		}
		return answer{"key_arn": deleted.KeyARN, "key_material_id": deleted.KeyMaterialID}, nil
	case "discard":
		return answer{}, d.client.Discard(ctx, asked.KeyID, asked.ImportToken)
	case "status":
		return d.status(ctx, asked)
	default:
		return nil, errors.New("not known")
	}
}

func (d *driver) connect(asked request) error {
	var options []keyimport.Option
	if asked.CA != "" || asked.Certificate != "" || asked.PrivateKey != "" {
		config, err := keyimport.LoadTLS(asked.CA, asked.Certificate, asked.PrivateKey)
		if err != nil {
			return err
		}
		options = append(options, keyimport.WithTLS(config))
	}
	client, err := keyimport.New(asked.Target, options...)
	if err != nil {
		return err
	}
	if d.client != nil {
		err = d.client.Close()
	}
	d.client = client
	return err
}

func (d *driver) get(ctx context.Context, asked request) (answer, error) {
	set, err := d.client.GetParameters(ctx, asked.KeyID, asked.parametersOptions())
	if err != nil {
		return nil, err
	}
	return answer{
		"key_arn":             set.KeyARN,
		"public_key":          set.PublicKey,
		"import_token":        set.ImportToken,
		"parameters_valid_to": set.ValidTo,
		"wrapping_algorithm":  set.WrappingAlgorithm,
		"wrapping_key_spec":   set.WrappingKeySpec,
		"public_key_sha256":   set.Fingerprint(),
		"source":              set.Source,
	}, nil
}

func (d *driver) status(ctx context.Context, asked request) (answer, error) {
	status, err := d.client.Status(ctx, asked.KeyID)
	if err != nil {
		return nil, err
	}
	told := answer{
		"key_arn":         status.KeyARN,
		"key_spec":        status.KeySpec,
		"key_state":       status.KeyState,
		"external_origin": status.ExternalOrigin,
		"multi_region":    status.MultiRegion,
	}
	if !status.MaterialValidTo.IsZero() {
		told["material_valid_to"] = status.MaterialValidTo
	}
	return told, nil
}

func (r request) parametersOptions() keyimport.ParametersOptions {
	return keyimport.ParametersOptions{
		WrappingAlgorithm:    r.WrappingAlgorithm,
		WrappingKeySpec:      r.WrappingKeySpec,
		MinRemainingValidity: time.Duration(r.MinRemainingSeconds * float64(time.Second)),
		Sharing:              r.Sharing,
	}
}

func (r request) importOptions(wrap bool) keyimport.ImportOptions {
	options := keyimport.ImportOptions{
		ValidTo: r.ValidTo, NeverExpires: r.NeverExpires, ImportType: r.ImportType,
		KeyMaterialID: r.KeyMaterialID, KeyMaterialDescription: r.KeyMaterialDescription,
	}
	if wrap {
		options.Parameters = r.parametersOptions()
	}
	return options
}

func unwrapped(asked request) ([]byte, error) {
	der, err := base64.StdEncoding.DecodeString(asked.PrivateKey)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%T is no RSA key", key)
	}
	return unwrap.Unwrap(private, string(asked.WrappingAlgorithm), asked.Wrapped)
}

// describe is the error as the tests want it told; false if it is none of the library's.
func describe(err error) (answer, bool) {
	told := answer{
		"type": "ArgumentError", "reason": "", "code": "", "message": err.Error(), "field": "",
		"metadata": map[string]string{}, "retry_after_ms": nil,
	}
	if _, ok := errors.AsType[keyimport.ArgumentError](err); ok {
		return told, true
	}
	refusal, ok := errors.AsType[*keyimport.Error](err)
	if !ok {
		return nil, false
	}
	told["type"] = "KeyImportError"
	if refusal.Kind != "" {
		told["type"] = refusal.Kind
	}
	told["reason"], told["message"], told["field"] = refusal.Reason, refusal.Message, refusal.Field
	if refusal.Code != codes.OK {
		told["code"] = code.Code(refusal.Code).String()
	}
	if refusal.Metadata != nil {
		told["metadata"] = refusal.Metadata
	}
	if after, ok := refusal.RetryAfter(); ok {
		told["retry_after_ms"] = float64(after) / float64(time.Millisecond)
	}
	return told, true
}
