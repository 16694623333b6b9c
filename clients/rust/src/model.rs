//! What the client takes and gives.

use std::time::{Duration, SystemTime};

use crate::v1::{ImportType, Sharing, WrappingAlgorithm, WrappingKeySpec};

/// When imported key material expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    /// KMS deletes it at this time, at most 365 days ahead; the key is unusable from then on.
    At(SystemTime),
    /// Never.
    Never,
}

/// Which parameter set to get. To be made with `..GetOptions::default()`, which leaves everything to the broker.
#[derive(Clone, Copy, Debug, Default)]
pub struct GetOptions {
    /// How the key material will be wrapped; unspecified means the strongest that policy and the key allow.
    pub wrapping_algorithm: WrappingAlgorithm,
    /// The size of the wrapping key; unspecified means the largest that policy and the key allow.
    pub wrapping_key_spec: WrappingKeySpec,
    /// The least time, up to 23 hours, that the set must remain valid.
    pub min_remaining_validity: Option<Duration>,
    /// Whether other callers may be given the same set.
    pub sharing: Sharing,
}

/// How to import. To be made with `..ImportOptions::default()`, which leaves everything to the broker and to KMS.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions<'a> {
    /// Which parameter set to get; without effect on key material that is wrapped already.
    pub get: GetOptions,
    /// Whether the material is new to a symmetric encryption key.
    pub import_type: ImportType,
    /// The id of known material of a symmetric encryption key.
    pub key_material_id: &'a str,
    /// A note, of at most 256 characters, stored with the material of a symmetric encryption key.
    pub key_material_description: &'a str,
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedKeyMaterial {
    /// The key's ARN.
    pub key_arn: String,
    /// The id KMS gave to the key material; empty unless the key is a symmetric encryption key.
    pub key_material_id: String,
    /// SHA-256 of the public key it was wrapped under; `None` if it was wrapped elsewhere.
    pub public_key_sha256: Option<[u8; 32]>,
}

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeletedKeyMaterial {
    /// The key's ARN.
    pub key_arn: String,
    /// The id of the deleted key material; empty unless the key is a symmetric encryption key.
    pub key_material_id: String,
}

/// What KMS tells of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyImportStatus {
    /// The key's ARN.
    pub key_arn: String,
    /// The key's spec in KMS's words, such as `SYMMETRIC_DEFAULT` or `RSA_2048`.
    pub key_spec: String,
    /// The key's state in KMS's words, such as `PendingImport` or `Enabled`.
    pub key_state: String,
    /// Whether the key takes imported key material.
    pub external_origin: bool,
    /// When KMS deletes the key material; `None` if it holds none, or holds it for ever.
    pub material_valid_to: Option<SystemTime>,
    /// Whether it is a multi-Region key; each replica needs the same key material imported.
    pub multi_region: bool,
}
