//! Parameter sets, which are looked at before anything is wrapped under them.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use prost_types::Timestamp;

use crate::errors::Error;
use crate::public_key::{check_public_key, modulus_bytes, rejected};
use crate::v1::{
    GetParametersForImportRequest, GetParametersForImportResponse, ParametersSource, WrappingAlgorithm, WrappingKeySpec,
};
use crate::wrapping::{Recipe, wrap};

/// The last second of the year 9999, where the dates of Protocol Buffers end.
const LAST_SECOND: u64 = 253_402_300_799;

/// A parameter set that has been checked. Its public key and import token belong together.
#[derive(Clone)]
#[non_exhaustive]
pub struct Parameters {
    /// The key's ARN.
    pub key_arn: String,
    /// The wrapping public key, DER `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
    /// Opaque; goes with the key material wrapped under `public_key`.
    pub import_token: Vec<u8>,
    /// When KMS stops accepting the token.
    pub parameters_valid_to: SystemTime,
    /// What to wrap with.
    pub wrapping_algorithm: WrappingAlgorithm,
    /// The kind and size of `public_key`.
    pub wrapping_key_spec: WrappingKeySpec,
    /// SHA-256 of `public_key`, which the broker's audit log shows in hexadecimal.
    pub public_key_sha256: [u8; 32],
    /// Where the broker had the set from.
    pub source: ParametersSource,
}

impl Parameters {
    /// Wraps key material for import with this set, as [`wrap`] does.
    ///
    /// # Errors
    /// [`MaterialUnsuitable`](crate::ErrorKind::MaterialUnsuitable) if it does not fit.
    pub fn wrap(&self, material: &[u8]) -> Result<Vec<u8>, Error> {
        wrap(material, &self.public_key, self.wrapping_algorithm, self.wrapping_key_spec)
    }

    /// The broker's answer as a parameter set, unless it contradicts itself or the request.
    pub(crate) fn checked(
        answer: GetParametersForImportResponse,
        asked: &GetParametersForImportRequest,
    ) -> Result<Self, Error> {
        let refuse = |objection: String| rejected(format!("the broker's answer is refused: {objection}"));
        if !names_key(&answer.key_arn, &asked.key_id) {
            return Err(refuse(format!("it is for {:?}, not for {:?}", answer.key_arn, asked.key_id)));
        }
        if asked.wrapping_algorithm != 0 && asked.wrapping_algorithm != answer.wrapping_algorithm {
            return Err(refuse("its wrapping algorithm is not the one asked for".into()));
        }
        if asked.wrapping_key_spec != 0 && asked.wrapping_key_spec != answer.wrapping_key_spec {
            return Err(refuse("its wrapping key spec is not the one asked for".into()));
        }
        let algorithm = answer.wrapping_algorithm();
        Recipe::of(algorithm).map_err(|error| refuse(error.message().to_owned()))?;
        let sha256 = digest(&SHA256, &answer.public_key);
        if sha256.as_ref() != answer.public_key_sha256 {
            return Err(refuse("the public key has another SHA-256".into()));
        }
        if answer.import_token.is_empty() {
            return Err(refuse("the import token is empty".into()));
        }
        let parameters_valid_to =
            answer.parameters_valid_to.and_then(time).ok_or_else(|| refuse("its expiry is no date".into()))?;
        if parameters_valid_to <= SystemTime::now() {
            return Err(refuse("it has expired".into()));
        }
        let spec = answer.wrapping_key_spec();
        if modulus_bytes(spec).is_none() {
            return Err(refuse(format!("this library does not wrap under a key of spec {spec}")));
        }
        check_public_key(&answer.public_key, spec)?;
        Ok(Self {
            parameters_valid_to,
            wrapping_algorithm: algorithm,
            wrapping_key_spec: spec,
            public_key_sha256: sha256.as_ref().try_into().expect("a SHA-256 has 32 bytes"),
            source: answer.source(),
            key_arn: answer.key_arn,
            public_key: answer.public_key,
            import_token: answer.import_token,
        })
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Parameters")
            .field("key_arn", &self.key_arn)
            .field("wrapping_algorithm", &self.wrapping_algorithm)
            .field("wrapping_key_spec", &self.wrapping_key_spec)
            .field("parameters_valid_to", &self.parameters_valid_to)
            .finish_non_exhaustive()
    }
}

/// Whether the ARN is the asked one or, if a bare key id was asked for, ends in that.
pub(crate) fn names_key(key_arn: &str, key_id: &str) -> bool {
    key_arn == key_id || (!key_id.starts_with("arn:") && key_arn.ends_with(&format!(":key/{key_id}")))
}

/// The time of a timestamp, if it is a date, and one that KMS can mean.
pub(crate) fn time(timestamp: Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok().filter(|seconds| *seconds <= LAST_SECOND)?;
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}
