//! Which public keys are wrapped under.

use crate::errors::{Error, ErrorKind};
use crate::v1::WrappingKeySpec;

pub(crate) const SPECS: [WrappingKeySpec; 3] =
    [WrappingKeySpec::Rsa2048, WrappingKeySpec::Rsa3072, WrappingKeySpec::Rsa4096];
/// What follows the modulus: the exponent 65537.
const AFTER_MODULUS: &[u8] = b"\x02\x03\x01\x00\x01";

/// Refuses a wrapping public key that is anything but the whole of a canonical DER `SubjectPublicKeyInfo` of an RSA key
/// of the spec's size, with the exponent 65537 and an odd modulus. An unspecified `spec` admits the three RSA specs.
///
/// Returns the spec of the key.
///
/// # Errors
/// [`ErrorKind::WrappingKeyRejected`].
pub fn check_public_key(der: &[u8], spec: WrappingKeySpec) -> Result<WrappingKeySpec, Error> {
    if spec != WrappingKeySpec::Unspecified && modulus_bytes(spec).is_none() {
        return Err(rejected(format!("this library does not wrap under a key of spec {spec}")));
    }
    // Everything in such a key but the modulus is known beforehand. So nothing of it is parsed: it is compared, and
    // whatever is not that one encoding differs somewhere.
    let read = SPECS.into_iter().find_map(|candidate| {
        let size = modulus_bytes(candidate)?;
        let modulus = der.strip_prefix(&*before_modulus(size))?.strip_suffix(AFTER_MODULUS)?;
        (modulus.len() == size).then_some((candidate, modulus))
    });
    let Some((actual, modulus)) = read else {
        return Err(rejected(
            "the public key is not one canonical DER SubjectPublicKeyInfo of an RSA key of 2048, 3072 or 4096 bits \
             with the exponent 65537",
        ));
    };
    if modulus[0] & 0x80 == 0 {
        return Err(rejected("the public key's modulus is shorter than its encoding"));
    }
    if modulus[modulus.len() - 1] & 1 == 0 {
        return Err(rejected("the public key's modulus is even, so it is no RSA modulus"));
    }
    if spec != WrappingKeySpec::Unspecified && spec != actual {
        return Err(rejected(format!("the public key is of spec {actual}, not {spec}")));
    }
    Ok(actual)
}

/// What precedes the modulus in the `SubjectPublicKeyInfo` of an RSA key: RFC 3279 section 2.3.1, RFC 8017 appendix
/// A.1.1. Every length is the modulus and what follows it, and is written in two bytes for all the sizes there are.
fn before_modulus(modulus: usize) -> Vec<u8> {
    let length = |more: usize| u16::try_from(modulus + more).expect("an RSA modulus of a wrapping key").to_be_bytes();
    let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"; // rsaEncryption, NULL
    [
        &b"\x30\x82"[..], // SubjectPublicKeyInfo
        &length(34),
        algorithm,
        b"\x03\x82", // BIT STRING of whole bytes
        &length(15),
        b"\x00",
        b"\x30\x82", // RSAPublicKey
        &length(10),
        b"\x02\x82", // the modulus, with a zero before its first bit, which is set
        &length(1),
        b"\x00",
    ]
    .concat()
}

/// The size of the modulus; `None` for a spec that is not wrapped under.
pub(crate) fn modulus_bytes(spec: WrappingKeySpec) -> Option<usize> {
    match spec {
        WrappingKeySpec::Rsa2048 => Some(256),
        WrappingKeySpec::Rsa3072 => Some(384),
        WrappingKeySpec::Rsa4096 => Some(512),
        _ => None,
    }
}

pub(crate) fn rejected(message: impl Into<String>) -> Error {
    Error::local(ErrorKind::WrappingKeyRejected, message)
}
