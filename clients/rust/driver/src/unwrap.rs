//! The other side of wrapping, which is KMS's and no part of the library.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use keyimport::WrappingAlgorithm;

/// The key material in what was wrapped under the public key of the private key, which is PKCS#8 DER.
pub(crate) fn unwrap(private_key: &[u8], algorithm: WrappingAlgorithm, wrapped: &[u8]) -> Result<Vec<u8>, String> {
    let (oaep, aes_key_wrap) = match algorithm {
        WrappingAlgorithm::RsaesOaepSha1 => (&OAEP_SHA1_MGF1SHA1, false),
        WrappingAlgorithm::RsaesOaepSha256 => (&OAEP_SHA256_MGF1SHA256, false),
        WrappingAlgorithm::RsaAesKeyWrapSha1 => (&OAEP_SHA1_MGF1SHA1, true),
        WrappingAlgorithm::RsaAesKeyWrapSha256 => (&OAEP_SHA256_MGF1SHA256, true),
        _ => return Err(format!("{algorithm} cannot be unwrapped")),
    };
    let key = PrivateDecryptingKey::from_pkcs8(private_key).map_err(|error| error.to_string())?;
    let key = OaepPrivateDecryptingKey::new(key).map_err(|error| error.to_string())?;
    let (block, rest) = wrapped.split_at_checked(key.key_size_bytes()).ok_or("shorter than an RSA block")?;
    let mut plain = vec![0; key.min_output_size()];
    let plain = key.decrypt(oaep, block, &mut plain, None).map_err(|error| format!("OAEP: {error}"))?;
    if !aes_key_wrap {
        return if rest.is_empty() { Ok(plain.to_vec()) } else { Err("longer than an RSA block".to_owned()) };
    }
    let mut material = vec![0; rest.len()];
    AesKek::new(&AES_256, plain)
        .and_then(|key| key.unwrap_with_padding(rest, &mut material).map(|material| material.to_vec()))
        .map_err(|error| format!("AES-KWP: {error}"))
}
