//! Key material wrapped as KMS unwraps it.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use zeroize::Zeroizing;

use crate::errors::{Error, ErrorKind};
use crate::public_key::{SPECS, check_public_key, modulus_bytes, rejected};
use crate::v1::{WrappingAlgorithm, WrappingKeySpec};

const AES_KEY_BYTES: usize = 32;
/// The most that KMS takes as `EncryptedKeyMaterial`.
const WRAPPED_BYTES: usize = 6144;

/// Wraps key material for import.
///
/// `material` is an AES or HMAC key as its bytes, or an RSA or ECC private key as PKCS#8 DER; `public_key` is the
/// wrapping public key as DER `SubjectPublicKeyInfo`. `algorithm` and `spec` are the parameter set's; an unspecified
/// `spec` admits an RSA key of any of the three sizes.
///
/// The answer is for `RSAES_OAEP` the one RSA block; for `RSA_AES_KEY_WRAP` the RSA block with a fresh AES-256 key in
/// it, and then the material wrapped under that key with padding (RFC 5649).
///
/// # Errors
/// - [`ErrorKind::MaterialUnsuitable`]: the material does not fit, or the library does not wrap with the algorithm.
/// - [`ErrorKind::WrappingKeyRejected`]: the public key is not what [`check_public_key`] lets pass.
pub fn wrap(
    material: &[u8],
    public_key: &[u8],
    algorithm: WrappingAlgorithm,
    spec: WrappingKeySpec,
) -> Result<Vec<u8>, Error> {
    let spec = check_public_key(public_key, spec)?;
    check_material(material, algorithm, spec)?;
    let recipe = Recipe::of(algorithm)?;
    let key = PublicEncryptingKey::from_der(public_key)
        .map_err(|_| Unspecified)
        .and_then(OaepPublicEncryptingKey::new)
        .map_err(|_| rejected("the public key is no RSA key"))?;
    let wrapped = if recipe.aes_key_wrap {
        wrap_in_two_steps(material, &key, recipe.oaep)
    } else {
        encrypt(material, &key, recipe.oaep)
    };
    wrapped.map_err(|Unspecified| unsuitable(format!("the key material cannot be wrapped with {algorithm}")))
}

fn wrap_in_two_steps(
    material: &[u8],
    key: &OaepPublicEncryptingKey,
    oaep: &'static OaepAlgorithm,
) -> Result<Vec<u8>, Unspecified> {
    let mut aes_key = Zeroizing::new([0; AES_KEY_BYTES]);
    rand::fill(aes_key.as_mut())?;
    let mut wrapped = encrypt(aes_key.as_ref(), key, oaep)?;
    wrapped.extend(aes_key_wrap(&aes_key, material)?);
    Ok(wrapped)
}

/// RFC 5649. Public for the conformance driver alone, which compares it with the vectors of NIST.
#[doc(hidden)]
pub fn aes_key_wrap(aes_key: &[u8; AES_KEY_BYTES], material: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let mut wrapped = vec![0; material.len().next_multiple_of(8) + 8];
    let length = AesKek::new(&AES_256, aes_key)?.wrap_with_padding(material, &mut wrapped)?.len();
    wrapped.truncate(length);
    Ok(wrapped)
}

fn encrypt(plain: &[u8], key: &OaepPublicEncryptingKey, oaep: &'static OaepAlgorithm) -> Result<Vec<u8>, Unspecified> {
    let mut encrypted = vec![0; key.ciphertext_size()];
    let length = key.encrypt(oaep, plain, &mut encrypted, None)?.len();
    encrypted.truncate(length);
    Ok(encrypted)
}

/// Refuses key material that can be seen to be unfit before a parameter set is spent on it.
///
/// `algorithm` and `spec` are unspecified where they are not known yet.
///
/// # Errors
/// [`ErrorKind::MaterialUnsuitable`]: it is empty, or PEM, or does not fit, or the library does not wrap with the
/// algorithm.
pub fn check_material(material: &[u8], algorithm: WrappingAlgorithm, spec: WrappingKeySpec) -> Result<(), Error> {
    if material.is_empty() {
        return Err(unsuitable("the key material is empty"));
    }
    if material.starts_with(b"-----BEGIN") {
        return Err(unsuitable("the key material is PEM text; KMS takes a private key as PKCS#8 DER"));
    }
    if algorithm == WrappingAlgorithm::Unspecified {
        return Ok(());
    }
    let recipe = Recipe::of(algorithm)?;
    let room = |spec| modulus_bytes(spec).map(|modulus| recipe.capacity(modulus));
    let widest = SPECS.into_iter().filter_map(room).max().unwrap_or_default();
    let limit = room(spec).unwrap_or(widest);
    if material.len() <= limit {
        return Ok(());
    }
    let advice = if recipe.aes_key_wrap {
        "KMS takes at most 6144 bytes of wrapped key material"
    } else {
        "RSA_AES_KEY_WRAP holds an RSA or ECC private key of any size"
    };
    Err(unsuitable(format!(
        "{} bytes of key material do not fit {algorithm}, which holds at most {limit} bytes under {}; {advice}",
        material.len(),
        if room(spec).is_some() { spec.to_string() } else { "an RSA key".to_owned() },
    )))
}

/// One wrapping algorithm: the OAEP, and whether an AES key stands between.
pub(crate) struct Recipe {
    oaep: &'static OaepAlgorithm,
    hash_bytes: usize,
    aes_key_wrap: bool,
}

impl Recipe {
    /// <https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html>
    pub(crate) fn of(algorithm: WrappingAlgorithm) -> Result<Self, Error> {
        // SHA-1, which KMS offers, does no harm here: OAEP needs no collision resistance.
        let (oaep, hash_bytes, aes_key_wrap) = match algorithm {
            WrappingAlgorithm::RsaesOaepSha1 => (&OAEP_SHA1_MGF1SHA1, 20, false),
            WrappingAlgorithm::RsaesOaepSha256 => (&OAEP_SHA256_MGF1SHA256, 32, false),
            WrappingAlgorithm::RsaAesKeyWrapSha1 => (&OAEP_SHA1_MGF1SHA1, 20, true),
            WrappingAlgorithm::RsaAesKeyWrapSha256 => (&OAEP_SHA256_MGF1SHA256, 32, true),
            _ => return Err(unsuitable(format!("this library does not wrap with {algorithm}"))),
        };
        Ok(Self { oaep, hash_bytes, aes_key_wrap })
    }

    /// The most bytes of key material; RFC 8017 section 7.1.1, and RFC 5649: eights, and eight more.
    fn capacity(&self, modulus: usize) -> usize {
        if self.aes_key_wrap { (WRAPPED_BYTES - modulus) / 8 * 8 - 8 } else { modulus - 2 * self.hash_bytes - 2 }
    }
}

fn unsuitable(message: impl Into<String>) -> Error {
    Error::local(ErrorKind::MaterialUnsuitable, message)
}
