//! Imports your own key material into AWS KMS through keybroker.
//!
//! The key material is wrapped in this process and leaves it only wrapped; neither AWS credentials nor an AWS SDK is
//! needed.
//!
//! ```no_run
//! # async fn example(key_id: &str, material: &[u8]) -> Result<(), keyimport::Error> {
//! use keyimport::{Client, Expiration, ImportOptions};
//!
//! let client = Client::connect("unix:/run/keybroker/keybroker.sock")?;
//! let imported =
//!     client.import_key_material(key_id, material, Expiration::Never, ImportOptions::default()).await?;
//! println!("{} holds the key material", imported.key_arn);
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::get_parameters`] and [`Client::import_wrapped`] are the two halves of it, for key material that is wrapped
//! elsewhere; [`wrap`], [`check_material`] and [`check_public_key`] work without a connection.

#![forbid(unsafe_code)]

mod client;
mod connection;
mod errors;
mod model;
mod parameters;
mod public_key;
mod retry;
mod status;
mod words;
mod wrapping;

/// What the README shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
extern crate self as keyimport;
#[cfg(test)]
mod tests;

#[allow(clippy::all, clippy::pedantic, deprecated, missing_docs, unreachable_pub, unused_qualifications)]
#[allow(dead_code, reason = "no method of the client asks for a batch yet")]
mod v1 {
    include!("generated/keyimport.v1.rs");
}

pub use client::Client;
pub use connection::MutualTls;
pub use errors::{Error, ErrorKind};
pub use model::{DeletedKeyMaterial, Expiration, GetOptions, ImportOptions, ImportedKeyMaterial, KeyImportStatus};
pub use parameters::Parameters;
pub use public_key::check_public_key;
pub use tonic::Code;
pub use v1::{ImportType, ParametersSource, Sharing, WrappingAlgorithm, WrappingKeySpec};
#[doc(hidden)]
pub use wrapping::aes_key_wrap;
pub use wrapping::{check_material, wrap};
