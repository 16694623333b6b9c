package keyimport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	pb "example.com/keybroker/keyimport/keyimportpb"
)

// A token and a ciphertext are at most 6 KiB each; whatever is far larger is no message of this API.
const messageBytes = 64 * 1024

// An Option changes how [New] connects.
type Option func(*settings)

type settings struct{ tls *tls.Config }

// WithTLS makes the connection one of mutual TLS. The configuration has to have a client certificate, and to verify the
// broker's; [LoadTLS] makes one of files.
func WithTLS(config *tls.Config) Option { return func(s *settings) { s.tls = config } }

// LoadTLS is a configuration for [WithTLS] of PEM files: the CA certificates that the broker's certificate is verified
// with, and the client's certificate (followed by its chain) and private key. The latter two are read anew for each
// connection, so that they can be rotated.
func LoadTLS(caFile, certificateFile, privateKeyFile string) (*tls.Config, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("keyimport: %s has no PEM certificate", caFile)
	}
	load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certificateFile, privateKeyFile)
		return &pair, err
	}
	if _, err := load(nil); err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, GetClientCertificate: load, MinVersion: tls.VersionTLS12}, nil
}

// New is a client of the broker at a target: "unix:PATH", "tcp:HOST:PORT" or "HOST:PORT". A tcp target takes [WithTLS],
// and can do without only if it is a loopback address: whoever can answer in the broker's place can have the key
// material wrapped for himself. New does not connect; the first call does. The error is an [ArgumentError].
func New(target string, options ...Option) (*Client, error) {
	var chosen settings
	for _, option := range options {
		option(&chosen)
	}
	network, address, authority, err := parseTarget(target, chosen.tls)
	if err != nil {
		return nil, err
	}
	dialer, transport := &net.Dialer{}, insecure.NewCredentials()
	if chosen.tls != nil {
		transport = credentials.NewTLS(chosen.tls)
	} else if network == "tcp" {
		dialer.Control = onlyLoopback
	}
	// gRPC resolves nothing: it would look for a service config in DNS, and take the path of a socket for a URL.
	connection, err := grpc.NewClient("passthrough:///"+authority,
		grpc.WithTransportCredentials(transport),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		}),
		// What is tried again is decided in call, and nowhere else.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(messageBytes), grpc.MaxCallSendMsgSize(messageBytes), grpc.WaitForReady(false)),
		// A broker that is back is found as soon as call looks for it: left alone, gRPC stays away for up to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstDelay, Multiplier: 2, Jitter: lengthened, MaxDelay: longestDelay},
			MinConnectTimeout: 20 * time.Second,
		}),
	)
	if err != nil {
		return nil, ArgumentError(fmt.Sprintf("%q is no target: %v", target, err))
	}
	return &Client{connection: connection, stub: pb.NewKeyImportServiceClient(connection)}, nil
}

// parseTarget gives what to dial, and the authority to ask for: of TLS the name that the broker's certificate must
// have.
func parseTarget(target string, config *tls.Config) (network, address, authority string, err error) {
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		if config != nil {
			return "", "", "", ArgumentError("a unix socket takes no TLS")
		}
		if path == "" {
			return "", "", "", ArgumentError("unix: needs a path")
		}
		return "unix", path, "localhost", nil
	}
	address = strings.TrimPrefix(target, "tcp:")
	host, port, err := net.SplitHostPort(address)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || host == "" {
		return "", "", "", ArgumentError(fmt.Sprintf("%q is none of unix:PATH, tcp:HOST:PORT and HOST:PORT", target))
	}
	switch {
	case config == nil && host != "localhost" && !isLoopback(host):
		return "", "", "", ArgumentError(fmt.Sprintf("%q is not on this machine, so the connection needs TLS", target))
	case config != nil && len(config.Certificates) == 0 && config.GetClientCertificate == nil:
		return "", "", "", ArgumentError("mutual TLS needs a client certificate")
	case config != nil && !verifies(config):
		return "", "", "", ArgumentError("the broker's certificate must be verified")
	}
	return "tcp", address, address, nil
}

// verifies says whether the configuration leaves verification to Go, or has one of its own, such as by SPIFFE ID.
func verifies(config *tls.Config) bool {
	return !config.InsecureSkipVerify || config.VerifyConnection != nil || config.VerifyPeerCertificate != nil
}

// onlyLoopback refuses to connect to where a plain-text "localhost" must not lead, whatever a resolver says.
func onlyLoopback(_, address string, _ syscall.RawConn) error {
	if to, err := netip.ParseAddrPort(address); err != nil || !to.Addr().IsLoopback() {
		return fmt.Errorf("%s is no loopback address, so the connection needs TLS", address)
	}
	return nil
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
