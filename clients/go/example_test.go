package keyimport_test

import (
	"context"
	"errors"
	"log"
	"time"

	"example.com/keybroker/keyimport"
)

func ExampleClient_ImportKeyMaterial() {
	importRootKey := func(ctx context.Context, keyID string, material []byte) error {
		client, err := keyimport.New("unix:/run/keybroker/keybroker.sock")
		if err != nil {
			return err
		}
		defer client.Close()
		imported, err := client.ImportKeyMaterial(ctx, keyID, material, keyimport.ImportOptions{NeverExpires: true})
		if errors.Is(err, keyimport.OutcomeUnknown) {
			log.Print("look at the key before trying again; client.Status does")
		}
		if err != nil {
			return err
		}
		log.Printf("%s, wrapped under %x", imported.KeyARN, imported.PublicKeySHA256)
		return nil
	}
	_ = importRootKey
}

// Key material that is elsewhere, such as on a machine without a network, is wrapped there: what travels is the public
// key and the result.
func ExampleClient_ImportWrapped() {
	importFromElsewhere := func(
		ctx context.Context, client *keyimport.Client, keyID string, elsewhere func(publicKey []byte) ([]byte, error),
	) error {
		options := keyimport.ParametersOptions{
			WrappingAlgorithm: keyimport.RSAESOAEPSHA256, WrappingKeySpec: keyimport.RSA4096,
		}
		set, err := client.GetParameters(ctx, keyID, options)
		if err != nil {
			return err
		}
		// There: keyimport.Wrap(material, publicKey, keyimport.RSAESOAEPSHA256, keyimport.RSA4096)
		wrapped, err := elsewhere(set.PublicKey)
		if err != nil {
			return err
		}
		validTo := keyimport.ImportOptions{ValidTo: time.Now().AddDate(0, 6, 0)}
		_, err = client.ImportWrapped(ctx, keyID, wrapped, set.ImportToken, validTo)
		return err
	}
	_ = importFromElsewhere
}

func ExampleLoadTLS() {
	config, err := keyimport.LoadTLS("ca.pem", "client.pem", "client.key")
	if err != nil {
		log.Fatal(err)
	}
	client, err := keyimport.New("tcp:broker.example:7443", keyimport.WithTLS(config))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}
