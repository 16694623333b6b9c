package keyimport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

func TestTargets(t *testing.T) {
	mutual := &tls.Config{Certificates: make([]tls.Certificate, 1)}
	for _, c := range []struct {
		target string
		tls    *tls.Config
		ok     bool
	}{
		{"unix:/run/b.sock", nil, true},
		{"unix:relative.sock", nil, true},
		{"unix:", nil, false},
		{"unix:/run/b.sock", mutual, false},
		{"tcp:127.0.0.1:1", nil, true},
		{"127.9.9.9:1", nil, true},
		{"tcp:[::1]:1", nil, true},
		{"tcp:localhost:1", nil, true},
		{"tcp:192.0.2.1:1", nil, false},
		{"tcp:0.0.0.0:1", nil, false},
		{"tcp:broker.example:1", nil, false},
		{"tcp:localhost.broker.example:1", nil, false},
		{"tcp:127.0.0.1.broker.example:1", nil, false},
		{"tcp:broker.example:1", mutual, true},
		{"tcp:[2001:db8::1]:1", mutual, true},
		{"tcp:broker.example:1", &tls.Config{}, false},
		{"tcp:broker.example:1", &tls.Config{Certificates: mutual.Certificates, InsecureSkipVerify: true}, false},
		{"tcp:broker.example", mutual, false},
		{"tcp:broker.example:", mutual, false},
		{"tcp:broker.example:https", mutual, false},
		{"tcp:broker.example:65536", mutual, false},
		{"tcp::1", mutual, false},
		{"dns:///broker.example:1", mutual, false},
		{"", nil, false},
	} {
		var options []Option
		if c.tls != nil {
			options = append(options, WithTLS(c.tls))
		}
		client, err := New(c.target, options...)
		if err == nil {
			client.Close()
		}
		if _, misuse := errors.AsType[ArgumentError](err); c.ok != (err == nil) || !c.ok && !misuse {
			t.Errorf("%q: %v", c.target, err)
		}
	}
}

func TestPlainTextGoesToLoopbackAlone(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "192.0.2.1:1": false, "[2001:db8::1]:1": false,
	} {
		if err := onlyLoopback("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	address := serve(t, &fakeBroker{}, "tcp", "127.0.0.1:0")
	if err := connect(t, "tcp:"+address.String()).Discard(t.Context(), testKeyID, []byte("t")); err != nil {
		t.Error(err)
	}
}

func TestMutualTLS(t *testing.T) {
	directory := t.TempDir()
	load := func(ca, certificate, key string) (*tls.Config, error) {
		return LoadTLS(filepath.Join(directory, ca), filepath.Join(directory, certificate), filepath.Join(directory, key))
	}
	authority, stranger := newAuthority(t), newAuthority(t)
	authority.writeCA(t, filepath.Join(directory, "ca.pem"))
	stranger.writeCA(t, filepath.Join(directory, "stranger.pem"))
	authority.writeLeaf(t, directory, "server", &x509.Certificate{DNSNames: []string{"localhost"}})
	name := []*url.URL{{Scheme: "spiffe", Host: "corp.example", Path: "/alice"}}
	authority.writeLeaf(t, directory, "client", &x509.Certificate{URIs: name})
	stranger.writeLeaf(t, directory, "other", &x509.Certificate{URIs: name})
	pair, err := tls.LoadX509KeyPair(filepath.Join(directory, "server.pem"), filepath.Join(directory, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	broker := &fakeBroker{}
	address := serve(t, broker, "tcp", "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.pool(),
	})))
	port := address.(*net.TCPAddr).AddrPort().Port()
	target := func(host string) string { return "tcp:" + net.JoinHostPort(host, big.NewInt(int64(port)).String()) }
	deleteAs := func(host, ca, client string) error {
		config, err := load(ca+".pem", client+".pem", client+".key")
		if err != nil {
			t.Fatal(err)
		}
		_, err = connect(t, target(host), WithTLS(config)).DeleteImportedKeyMaterial(t.Context(), testKeyID, "")
		return err
	}

	if err := deleteAs("localhost", "ca", "client"); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ host, ca, client string }{
		{"127.0.0.1", "ca", "client"},       // not the name in the broker's certificate
		{"localhost", "stranger", "client"}, // not the broker's CA
		{"localhost", "ca", "other"},        // not the clients' CA
	} {
		if err := deleteAs(c.host, c.ca, c.client); status.Code(err) != codes.Unavailable {
			t.Errorf("%v: %v", c, err)
		}
	}
	if len(broker.calls) != 1 {
		t.Errorf("%v", broker.calls)
	}
	for _, files := range [][3]string{
		{"client.key", "client.pem", "client.key"},
		{"ca.pem", "client.pem", "other.key"},
		{"ca.pem", "ca.pem", "absent"},
		{"absent", "client.pem", "client.key"},
	} {
		if _, err := load(files[0], files[1], files[2]); err == nil {
			t.Errorf("%v load", files)
		}
	}
}

// An authority signs certificates for a test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	made := &authority{}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, key := made.sign(t, template)
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	made.certificate, made.key = certificate, key
	return made
}

// sign makes a certificate, of the authority itself where it has none yet.
func (a *authority) sign(t *testing.T, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: "a test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	issuer, signer := a.certificate, a.key
	if issuer == nil {
		issuer, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) writeCA(t *testing.T, path string) {
	t.Helper()
	writePEM(t, path, "CERTIFICATE", a.certificate.Raw)
}

func (a *authority) writeLeaf(t *testing.T, directory, name string, template *x509.Certificate) {
	t.Helper()
	der, key := a.sign(t, template)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(directory, name+".pem"), "CERTIFICATE", der)
	writePEM(t, filepath.Join(directory, name+".key"), "PRIVATE KEY", private)
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
