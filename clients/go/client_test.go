package keyimport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "example.com/keybroker/keyimport/keyimportpb"
)

var forEver = ImportOptions{NeverExpires: true}

func TestAnImportArrivesAsItWas(t *testing.T) {
	broker := &fakeBroker{}
	client := start(t, broker)
	material, validTo := randomBytes(32), time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	digest := sha256.Sum256(publicKeyDER(testKey(2048)))
	want := Imported{KeyARN: testKeyARN, KeyMaterialID: testMaterialID, PublicKeySHA256: digest}

	for _, keyID := range []string{testKeyID, testKeyARN} {
		imported, err := client.ImportKeyMaterial(t.Context(), keyID, material, ImportOptions{ValidTo: validTo})

		if err != nil || *imported != want {
			t.Errorf("%s: %+v, %v", keyID, imported, err)
		}
		if !bytes.Equal(broker.imported, material) || !broker.expiresAt.Equal(validTo) || broker.into != testKeyARN {
			t.Errorf("%s: another material, time or key", keyID)
		}
	}
}

func TestASetIsWrappedUnderElsewhere(t *testing.T) {
	broker := &fakeBroker{}
	client := start(t, broker)
	material := randomBytes(32)
	set, err := client.GetParameters(t.Context(), testKeyID, ParametersOptions{Sharing: Exclusive})
	if err != nil || set.Source != FromCache || set.WrappingAlgorithm != RSAESOAEPSHA256 {
		t.Fatalf("%v, %v", set, err)
	}
	wrapped, err := set.Wrap(material)
	if err != nil {
		t.Fatal(err)
	}

	imported, err := client.ImportWrapped(t.Context(), testKeyID, wrapped, set.ImportToken, forEver)

	if err != nil || imported.KeyMaterialID != testMaterialID || !bytes.Equal(broker.imported, material) {
		t.Errorf("%+v, %v", imported, err)
	}
}

func TestMisuseIsFoundBeforeAnythingIsSent(t *testing.T) {
	broker := &fakeBroker{}
	client := start(t, broker)
	for _, options := range []ImportOptions{
		{},
		{ValidTo: time.Now(), NeverExpires: true},
		{ValidTo: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{NeverExpires: true, ImportType: "OLD"},
		{NeverExpires: true, Parameters: ParametersOptions{WrappingAlgorithm: "RSA"}},
		{NeverExpires: true, Parameters: ParametersOptions{WrappingKeySpec: "RSA_512"}},
		{NeverExpires: true, Parameters: ParametersOptions{Sharing: "MINE"}},
	} {
		_, importing := client.ImportKeyMaterial(t.Context(), testKeyID, randomBytes(32), options)
		_, wrapped := client.ImportWrapped(t.Context(), testKeyID, []byte("w"), []byte("t"), options)
		for _, err := range []error{importing, wrapped} {
			if _, ok := errors.AsType[ArgumentError](err); !ok {
				t.Errorf("%+v: %v", options, err)
			}
		}
	}
	tooLong := ImportOptions{NeverExpires: true, Parameters: ParametersOptions{WrappingAlgorithm: RSAESOAEPSHA256}}
	_, err := client.ImportKeyMaterial(t.Context(), testKeyID, randomBytes(447), tooLong)
	if !errors.Is(err, MaterialUnsuitable) {
		t.Errorf("%v", err)
	}
	if len(broker.calls) != 0 {
		t.Errorf("%v", broker.calls)
	}
}

func TestARefusedTokenIsRenewedOnce(t *testing.T) {
	refused := refusal(codes.FailedPrecondition, "IMPORT_TOKEN_INVALID", -1)
	expired := refusal(codes.FailedPrecondition, "IMPORT_TOKEN_EXPIRED", -1)
	for _, c := range []struct {
		refusals []error
		kind     Kind
		sets     int
	}{
		{[]error{refused}, "", 2},
		{[]error{expired}, "", 2},
		{[]error{refused, expired}, ImportTokenExpired, 2},
		{[]error{refusal(codes.FailedPrecondition, "KEY_MATERIAL_MISMATCH", -1)}, KeyMaterialMismatch, 1},
	} {
		broker := &fakeBroker{refusals: c.refusals}
		_, err := start(t, broker).ImportKeyMaterial(t.Context(), testKeyID, randomBytes(32), forEver)
		if (c.kind == "") != (err == nil) || err != nil && !errors.Is(err, c.kind) || broker.sets != c.sets {
			t.Errorf("%v, %d sets", err, broker.sets)
		}
	}
}

func TestALyingBrokerIsGivenNothing(t *testing.T) {
	asked := ParametersOptions{WrappingAlgorithm: RSAESOAEPSHA256, WrappingKeySpec: RSA2048}
	type answer = pb.GetParametersForImportResponse
	for name, lie := range map[string]func(*answer){
		"another key":       func(a *answer) { a.KeyArn = otherKeyARN },
		"no key":            func(a *answer) { a.KeyArn = "" },
		"another algorithm": func(a *answer) { a.WrappingAlgorithm++ },
		"another spec":      func(a *answer) { a.WrappingKeySpec = pb.WrappingKeySpec_WRAPPING_KEY_SPEC_RSA_3072 },
		"another digest":    func(a *answer) { a.PublicKeySha256[0] ^= 1 },
		"no digest":         func(a *answer) { a.PublicKeySha256 = nil },
		"no token":          func(a *answer) { a.ImportToken = nil },
		"expired":           func(a *answer) { a.ParametersValidTo = timestamppb.Now() },
		"no expiry":         func(a *answer) { a.ParametersValidTo = nil },
		"no date":           func(a *answer) { a.ParametersValidTo = &timestamppb.Timestamp{Seconds: 1 << 60} },
		"another public key": func(a *answer) {
			a.PublicKey = publicKeyDER(testKey(3072))
			digest := sha256.Sum256(a.PublicKey)
			a.PublicKeySha256 = digest[:]
		},
	} {
		broker := &fakeBroker{lie: func(message proto.Message) { lie(message.(*answer)) }}
		_, err := start(t, broker).ImportKeyMaterial(
			t.Context(), testKeyID, randomBytes(32), ImportOptions{NeverExpires: true, Parameters: asked})
		if !errors.Is(err, WrappingKeyRejected) || !slices.Equal(broker.calls, []string{"get"}) {
			t.Errorf("%s: %v, %v", name, err, broker.calls)
		}
	}
	for name, lie := range map[string]func(*answer){
		"PKCS #1": func(a *answer) { a.WrappingAlgorithm = 1 },
		"SM2":     func(a *answer) { a.WrappingKeySpec = pb.WrappingKeySpec_WRAPPING_KEY_SPEC_SM2 },
		"newer":   func(a *answer) { a.WrappingAlgorithm = 99 },
		"none":    func(a *answer) { a.WrappingKeySpec = 0 },
	} {
		broker := &fakeBroker{lie: func(message proto.Message) { lie(message.(*answer)) }}
		_, err := start(t, broker).GetParameters(t.Context(), testKeyID, ParametersOptions{})
		if !errors.Is(err, WrappingKeyRejected) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAnswerForAnotherKeyIsNoSuccess(t *testing.T) {
	client := start(t, &fakeBroker{lie: func(message proto.Message) {
		switch answer := message.(type) {
		case *pb.ImportKeyMaterialResponse:
			answer.KeyArn = otherKeyARN
		case *pb.DeleteImportedKeyMaterialResponse:
			answer.KeyArn = otherKeyARN
		case *pb.GetKeyImportStatusResponse:
			answer.KeyArn = otherKeyARN
		}
	}})
	_, importing := client.ImportKeyMaterial(t.Context(), testKeyID, randomBytes(32), forEver)
	_, deleting := client.DeleteImportedKeyMaterial(t.Context(), testKeyARN, "")
	for _, err := range []error{importing, deleting} {
		if !errors.Is(err, OutcomeUnknown) {
			t.Errorf("%v", err)
		}
	}
	if status, err := client.Status(t.Context(), testKeyID); err == nil || errors.Is(err, OutcomeUnknown) {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestTheStatusTellsWhenTheMaterialExpires(t *testing.T) {
	for _, c := range []struct {
		told *timestamppb.Timestamp
		want time.Time
		ok   bool
	}{
		{nil, time.Time{}, true},
		{&timestamppb.Timestamp{Seconds: 4e9}, time.Unix(4e9, 0), true},
		{&timestamppb.Timestamp{Seconds: 1 << 60}, time.Time{}, false},
		{&timestamppb.Timestamp{Nanos: -1}, time.Time{}, false},
	} {
		client := start(t, &fakeBroker{lie: func(message proto.Message) {
			message.(*pb.GetKeyImportStatusResponse).MaterialValidTo = c.told
		}})
		status, err := client.Status(t.Context(), testKeyID)
		if c.ok != (err == nil) || c.ok && !status.MaterialValidTo.Equal(c.want) {
			t.Errorf("%v: %+v, %v", c.told, status, err)
		}
	}
}

func TestDeleteNamesTheMaterial(t *testing.T) {
	deleted, err := start(t, &fakeBroker{}).DeleteImportedKeyMaterial(t.Context(), testKeyID, testMaterialID)
	if err != nil || *deleted != (Deleted{KeyARN: testKeyARN, KeyMaterialID: testMaterialID}) {
		t.Errorf("%+v, %v", deleted, err)
	}
}

// damaged answers everything with a status whose details cannot be read.
type damaged struct{ fakeBroker }

func (*damaged) DiscardParameters(
	ctx context.Context, _ *pb.DiscardParametersRequest,
) (*pb.DiscardParametersResponse, error) {
	grpc.SetTrailer(ctx, metadata.Pairs("grpc-status-details-bin", "\xff\xfe no protobuf"))
	return nil, status.Error(codes.NotFound, "A sentence.")
}

func TestADamagedStatusIsAPlainError(t *testing.T) {
	socket := socketPath(t)
	serve(t, &damaged{}, "unix", socket)
	err := connect(t, "unix:"+socket).Discard(t.Context(), testKeyID, []byte("t"))
	refused, ok := errors.AsType[*Error](err)
	if !ok || refused.Kind != "" || refused.Reason != "" || refused.Code != codes.NotFound {
		t.Errorf("%#v", err)
	}
}

func TestMessagesFarTooLargeAreRefused(t *testing.T) {
	client := start(t, &fakeBroker{lie: func(message proto.Message) {
		if answer, ok := message.(*pb.GetParametersForImportResponse); ok {
			answer.ImportToken = make([]byte, messageBytes)
		}
	}})
	_, receiving := client.GetParameters(t.Context(), testKeyID, ParametersOptions{})
	sending := client.Discard(t.Context(), testKeyID, make([]byte, messageBytes))
	for _, err := range []error{receiving, sending} {
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%v", err)
		}
	}
}

func TestNothingPrintsAToken(t *testing.T) {
	set := Parameters{KeyARN: testKeyARN, ImportToken: []byte("s3cret-t0ken"), PublicKey: []byte{1}}
	var printed strings.Builder
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%08.3f"} {
		fmt.Fprintf(&printed, format, set)
		fmt.Fprintf(&printed, format, &set)
		fmt.Fprintf(&printed, format, []Parameters{set})
		fmt.Fprintf(&printed, format, struct{ Set *Parameters }{&set})
	}
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("a set", "set", set, "same", &set)
	slog.New(slog.NewTextHandler(&printed, nil)).Info("a set", "set", set, "same", &set)
	base64, _ := json.Marshal(set.ImportToken)
	for _, spelling := range []string{
		string(set.ImportToken), fmt.Sprintf("%x", set.ImportToken), fmt.Sprintf("%X", set.ImportToken),
		strings.Trim(fmt.Sprint(set.ImportToken), "[]"), strings.Trim(string(base64), `"`), "0x73", "163 63",
	} {
		if strings.Contains(printed.String(), spelling) {
			t.Errorf("%q is in %s", spelling, printed.String())
		}
	}
	if !strings.Contains(printed.String(), testKeyARN) {
		t.Error("the key is not told")
	}
}
