package keyimport

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/keybroker/keyimport/internal/unwrap"
	pb "example.com/keybroker/keyimport/keyimportpb"
)

const (
	testKeyID      = "1234abcd-12ab-34cd-56ef-1234567890ab"
	testKeyARN     = "arn:aws:kms:us-east-1:111122223333:key/" + testKeyID
	otherKeyARN    = "arn:aws:kms:us-east-1:111122223333:key/00000000-12ab-34cd-56ef-1234567890ab"
	testMaterialID = "abababababababababababababababababababababababababababababababab"
)

// A fakeBroker serves one key over a real socket. It can be told to refuse, to stall and to lie.
type fakeBroker struct {
	pb.UnimplementedKeyImportServiceServer

	// lie changes an answer before it leaves.
	lie func(proto.Message)
	// stalled is that calls are not answered in time.
	stalled bool
	// asked is told of each call as it comes, where there is one.
	asked chan<- struct{}

	mu        sync.Mutex
	refusals  []error // of the next calls but those for parameters, each used once
	absences  []error // of the next calls for parameters
	calls     []string
	patience  time.Duration // what the last call's deadline left
	sets      int
	imported  []byte // the material that was imported, unwrapped
	into      string // the key as the import named it
	expiresAt time.Time
}

func (b *fakeBroker) GetParametersForImport(
	ctx context.Context, request *pb.GetParametersForImportRequest,
) (*pb.GetParametersForImportResponse, error) {
	if err := b.receive(ctx, "get", &b.absences); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.sets++
	token := []byte{'t', 'o', 'k', 'e', 'n', byte('0' + b.sets)}
	b.mu.Unlock()
	der := publicKeyDER(testKey(2048))
	digest := sha256.Sum256(der)
	return told(b, &pb.GetParametersForImportResponse{
		KeyArn:            testKeyARN,
		PublicKey:         der,
		ImportToken:       token,
		ParametersValidTo: timestamppb.New(time.Now().Add(time.Hour)),
		WrappingAlgorithm: pb.WrappingAlgorithm_WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256,
		WrappingKeySpec:   pb.WrappingKeySpec_WRAPPING_KEY_SPEC_RSA_2048,
		PublicKeySha256:   digest[:],
		Source:            pb.ParametersSource_PARAMETERS_SOURCE_CACHE,
	}), nil
}

func (b *fakeBroker) ImportKeyMaterial(
	ctx context.Context, request *pb.ImportKeyMaterialRequest,
) (*pb.ImportKeyMaterialResponse, error) {
	if err := b.receive(ctx, "import", &b.refusals); err != nil {
		return nil, err
	}
	material, err := unwrap.Unwrap(testKey(2048), "RSAES_OAEP_SHA_256", request.GetEncryptedKeyMaterial())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	b.mu.Lock()
	b.imported, b.into, b.expiresAt = material, request.GetKeyId(), timeOf(request.GetValidTo())
	b.mu.Unlock()
	return told(b, &pb.ImportKeyMaterialResponse{KeyArn: testKeyARN, KeyMaterialId: testMaterialID}), nil
}

func (b *fakeBroker) DeleteImportedKeyMaterial(
	ctx context.Context, request *pb.DeleteImportedKeyMaterialRequest,
) (*pb.DeleteImportedKeyMaterialResponse, error) {
	if err := b.receive(ctx, "delete", &b.refusals); err != nil {
		return nil, err
	}
	return told(b, &pb.DeleteImportedKeyMaterialResponse{
		KeyArn: testKeyARN, KeyMaterialId: request.GetKeyMaterialId(),
	}), nil
}

func (b *fakeBroker) DiscardParameters(
	ctx context.Context, _ *pb.DiscardParametersRequest,
) (*pb.DiscardParametersResponse, error) {
	return &pb.DiscardParametersResponse{}, b.receive(ctx, "discard", &b.refusals)
}

func (b *fakeBroker) GetKeyImportStatus(
	ctx context.Context, _ *pb.GetKeyImportStatusRequest,
) (*pb.GetKeyImportStatusResponse, error) {
	if err := b.receive(ctx, "status", &b.refusals); err != nil {
		return nil, err
	}
	return told(b, &pb.GetKeyImportStatusResponse{
		KeyArn: testKeyARN, KeySpec: "SYMMETRIC_DEFAULT", KeyState: "PendingImport", ExternalOrigin: true,
	}), nil
}

func (b *fakeBroker) receive(ctx context.Context, name string, errors *[]error) error {
	deadline, _ := ctx.Deadline()
	if b.asked != nil {
		b.asked <- struct{}{}
	}
	if b.stalled {
		<-ctx.Done()
		// gRPC tells a deadline rounded down: an answer now could still arrive.
		time.Sleep(time.Second)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, name)
	b.patience = time.Until(deadline)
	if len(*errors) == 0 {
		return nil
	}
	next := (*errors)[0]
	*errors = (*errors)[1:]
	return next
}

func told[Answer proto.Message](b *fakeBroker, answer Answer) Answer {
	if b.lie != nil {
		b.lie(answer)
	}
	return answer
}

// start serves the broker, and gives a client of it.
func start(t *testing.T, broker *fakeBroker) *Client {
	t.Helper()
	socket := socketPath(t)
	serve(t, broker, "unix", socket)
	return connect(t, "unix:"+socket)
}

func serve(
	t *testing.T, broker pb.KeyImportServiceServer, network, address string, options ...grpc.ServerOption,
) net.Addr {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	pb.RegisterKeyImportServiceServer(server, broker)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr()
}

func connect(t *testing.T, target string, options ...Option) *Client {
	t.Helper()
	client, err := New(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// socketPath has a space, a # and a % in it, which are no business of gRPC's; and it is short, as paths of sockets must
// be.
func socketPath(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "go #%")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return filepath.Join(directory, "b.sock")
}

// refusal is an error as the broker sends it; a negative delay is none.
func refusal(code codes.Code, reason string, delay time.Duration) error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: domain}}
	if delay >= 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	}
	return withDetails(code, details...)
}

func withDetails(code codes.Code, details ...protoadapt.MessageV1) error {
	described, err := status.New(code, "A sentence for the caller.").WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return described.Err()
}

var testKeys = map[int]func() *rsa.PrivateKey{2048: newKey(2048), 3072: newKey(3072), 4096: newKey(4096)}

func newKey(bits int) func() *rsa.PrivateKey {
	return sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return key
	})
}

// testKey makes each key once for all tests.
func testKey(bits int) *rsa.PrivateKey { return testKeys[bits]() }

func publicKeyDER(key *rsa.PrivateKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return der
}
