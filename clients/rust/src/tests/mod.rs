//! The tests, and the keys they wrap under.

mod broker;
mod calls;
mod connection;
mod errors;
mod public_keys;
mod retry;
// The driver's other half of wrapping is the tests' too.
#[path = "../../driver/src/unwrap.rs"]
mod unwrap;
mod wrapping;

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};

use crate::WrappingKeySpec;

/// An RSA key pair: `SubjectPublicKeyInfo` and PKCS#8, both DER.
struct KeyPair {
    public: Vec<u8>,
    private: Vec<u8>,
}

static RSA_2048: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048));
static RSA_3072: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa3072));
static RSA_4096: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa4096));

impl KeyPair {
    fn generate(size: KeySize) -> Self {
        let private = PrivateDecryptingKey::generate(size).unwrap();
        let public: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
        let private: Pkcs8V1Der<'_> = private.as_der().unwrap();
        Self { public: public.as_ref().to_vec(), private: private.as_ref().to_vec() }
    }

    /// The one that all tests share, since it takes time to make.
    fn of(spec: WrappingKeySpec) -> &'static Self {
        match spec {
            WrappingKeySpec::Rsa3072 => &RSA_3072,
            WrappingKeySpec::Rsa4096 => &RSA_4096,
            _ => &RSA_2048,
        }
    }
}
