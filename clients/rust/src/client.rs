//! The client: what the broker offers, with the key material wrapped on this side of it.

use std::fmt;
use std::time::Duration;

use prost_types::Timestamp;
use tokio::time::Instant;

use crate::connection::{MutualTls, Stub, stub};
use crate::errors::{Error, ErrorKind};
use crate::model::{DeletedKeyMaterial, Expiration, GetOptions, ImportOptions, ImportedKeyMaterial, KeyImportStatus};
use crate::parameters::{Parameters, names_key, time};
use crate::retry::{Effect, call};
use crate::v1::import_key_material_request::Expiration as WireExpiration;
use crate::v1::{
    DeleteImportedKeyMaterialRequest, DiscardParametersRequest, GetKeyImportStatusRequest,
    GetParametersForImportRequest, ImportKeyMaterialRequest,
};
use crate::wrapping::check_material;

const TIMEOUT: Duration = Duration::from_secs(30);
/// What any longer timeout is taken for.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);

/// A connection to a broker, made at the first call and again as need be. Clones share it.
///
/// Each method takes at most the timeout in all, retries included, and tells the broker so. A key is named by its id or
/// its ARN. To drop the future of an import or a delete leaves its outcome unknown.
#[derive(Clone)]
pub struct Client {
    stub: Stub,
    timeout: Duration,
}

impl Client {
    /// A client of the broker at `unix:PATH` or, on this machine only, `tcp:HOST:PORT`.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`]: the target is none of these, or is on another machine.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time enabled.
    pub fn connect(target: &str) -> Result<Self, Error> {
        Ok(Self { stub: stub(target, None)?, timeout: TIMEOUT })
    }

    /// A client of the broker at `tcp:HOST:PORT` by mutual TLS. The broker's certificate must be for `HOST`.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`]: the target is something else, or the credentials cannot be read.
    ///
    /// # Panics
    /// As [`Client::connect`].
    pub fn connect_tls(target: &str, tls: MutualTls<'_>) -> Result<Self, Error> {
        Ok(Self { stub: stub(target, Some(tls))?, timeout: TIMEOUT })
    }

    /// The same connection with another timeout than 30 seconds, for a whole method each time.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { stub: self.stub.clone(), timeout: timeout.min(LONGEST_TIMEOUT) }
    }

    /// Gets a parameter set for a key, and checks it.
    ///
    /// # Errors
    /// [`ErrorKind::WrappingKeyRejected`] if the answer contradicts itself or the request, and whatever the broker
    /// refuses with.
    pub async fn get_parameters(&self, key_id: &str, options: GetOptions) -> Result<Parameters, Error> {
        self.get(key_id, options, self.deadline()).await
    }

    /// Gets parameters, wraps the key material here, and imports it.
    ///
    /// `material` is an AES or HMAC key as its bytes, or an RSA or ECC private key as PKCS#8 DER. A token that KMS does
    /// not accept (any more) is answered once, by a new set and a new wrapping.
    ///
    /// # Errors
    /// - [`ErrorKind::MaterialUnsuitable`]: the material cannot be wrapped; nothing was sent of it.
    /// - [`ErrorKind::WrappingKeyRejected`]: as of [`Client::get_parameters`]; nothing was sent of it.
    /// - [`ErrorKind::OutcomeUnknown`]: look at the key before trying again.
    /// - Whatever else the broker refuses with.
    pub async fn import_key_material(
        &self,
        key_id: &str,
        material: &[u8],
        expiration: Expiration,
        options: ImportOptions<'_>,
    ) -> Result<ImportedKeyMaterial, Error> {
        check_material(material, options.get.wrapping_algorithm, options.get.wrapping_key_spec)?;
        let deadline = self.deadline();
        let attempt = async || {
            let parameters = self.get(key_id, options.get, deadline).await?;
            // The ARN rather than the caller's key id: what was checked is what is imported into.
            let mut request = import_request(&parameters.key_arn, expiration, options);
            request.encrypted_key_material = parameters.wrap(material)?;
            request.import_token = parameters.import_token;
            self.import(request, Some(parameters.public_key_sha256), deadline).await
        };
        match attempt().await {
            // The broker forgets a set when it learns this, so the next one is another.
            Err(error) if matches!(error.kind(), ErrorKind::ImportTokenInvalid | ErrorKind::ImportTokenExpired) => {
                attempt().await
            }
            done => done,
        }
    }

    /// Imports key material that was wrapped elsewhere, such as in an HSM, under the public key of the set that
    /// `import_token` is of.
    ///
    /// # Errors
    /// [`ErrorKind::OutcomeUnknown`]: look at the key before trying again; and whatever the broker refuses with.
    pub async fn import_wrapped(
        &self,
        key_id: &str,
        encrypted_key_material: &[u8],
        import_token: &[u8],
        expiration: Expiration,
        options: ImportOptions<'_>,
    ) -> Result<ImportedKeyMaterial, Error> {
        let mut request = import_request(key_id, expiration, options);
        request.encrypted_key_material = encrypted_key_material.to_vec();
        request.import_token = import_token.to_vec();
        self.import(request, None, self.deadline()).await
    }

    /// Deletes imported key material: the key is unusable until the same material is imported again.
    ///
    /// `key_material_id` says which material of a symmetric encryption key; empty means the current one.
    ///
    /// # Errors
    /// [`ErrorKind::OutcomeUnknown`]: look at the key before trying again; and whatever the broker refuses with.
    pub async fn delete_imported_key_material(
        &self,
        key_id: &str,
        key_material_id: &str,
    ) -> Result<DeletedKeyMaterial, Error> {
        let request =
            DeleteImportedKeyMaterialRequest { key_id: key_id.to_owned(), key_material_id: key_material_id.to_owned() };
        let method = |mut stub: Stub, request| async move { stub.delete_imported_key_material(request).await };
        let answer = call(&self.stub, request, Effect::ChangesKey, self.deadline(), method).await?;
        require_same_key(&answer.key_arn, key_id)?;
        Ok(DeletedKeyMaterial { key_arn: answer.key_arn, key_material_id: answer.key_material_id })
    }

    /// Reports a parameter set as spent or suspect, so that the broker hands it to no one any more.
    ///
    /// # Errors
    /// Whatever the broker refuses with.
    pub async fn discard(&self, key_id: &str, import_token: &[u8]) -> Result<(), Error> {
        let request = DiscardParametersRequest { key_id: key_id.to_owned(), import_token: import_token.to_vec() };
        let method = |mut stub: Stub, request| async move { stub.discard_parameters(request).await };
        call(&self.stub, request, Effect::None, self.deadline(), method).await.map(drop)
    }

    /// Asks what KMS tells of a key now, as after an import or delete of unknown outcome.
    ///
    /// # Errors
    /// [`ErrorKind::Other`] if the answer is for another key or has an expiry that is no date, and whatever the broker
    /// refuses with.
    pub async fn status(&self, key_id: &str) -> Result<KeyImportStatus, Error> {
        let request = GetKeyImportStatusRequest { key_id: key_id.to_owned() };
        let method = |mut stub: Stub, request| async move { stub.get_key_import_status(request).await };
        let answer = call(&self.stub, request, Effect::None, self.deadline(), method).await?;
        if !names_key(&answer.key_arn, key_id) {
            let message = format!("the broker answered for {:?}, not for {key_id:?}", answer.key_arn);
            return Err(Error::local(ErrorKind::Other, message));
        }
        let material_valid_to = match answer.material_valid_to {
            Some(told) => Some(time(told).ok_or_else(|| {
                Error::local(ErrorKind::Other, "the broker's answer is refused: the material's expiry is no date")
            })?),
            None => None,
        };
        Ok(KeyImportStatus {
            key_arn: answer.key_arn,
            key_spec: answer.key_spec,
            key_state: answer.key_state,
            external_origin: answer.external_origin,
            material_valid_to,
            multi_region: answer.multi_region,
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    async fn get(&self, key_id: &str, options: GetOptions, deadline: Instant) -> Result<Parameters, Error> {
        let min_remaining_validity = options.min_remaining_validity.map(TryInto::try_into).transpose();
        let request = GetParametersForImportRequest {
            key_id: key_id.to_owned(),
            wrapping_algorithm: options.wrapping_algorithm.into(),
            wrapping_key_spec: options.wrapping_key_spec.into(),
            min_remaining_validity: min_remaining_validity
                .map_err(|_| Error::local(ErrorKind::Argument, "min_remaining_validity is too long"))?,
            sharing: options.sharing.into(),
        };
        let method = |mut stub: Stub, request| async move { stub.get_parameters_for_import(request).await };
        let answer = call(&self.stub, request.clone(), Effect::None, deadline, method).await?;
        Parameters::checked(answer, &request)
    }

    async fn import(
        &self,
        request: ImportKeyMaterialRequest,
        public_key_sha256: Option<[u8; 32]>,
        deadline: Instant,
    ) -> Result<ImportedKeyMaterial, Error> {
        let key_id = request.key_id.clone();
        let method = |mut stub: Stub, request| async move { stub.import_key_material(request).await };
        let answer = call(&self.stub, request, Effect::ChangesKey, deadline, method).await?;
        require_same_key(&answer.key_arn, &key_id)?;
        Ok(ImportedKeyMaterial { key_arn: answer.key_arn, key_material_id: answer.key_material_id, public_key_sha256 })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// The request, still without token and material.
fn import_request(key_id: &str, expiration: Expiration, options: ImportOptions<'_>) -> ImportKeyMaterialRequest {
    ImportKeyMaterialRequest {
        key_id: key_id.to_owned(),
        import_type: options.import_type.into(),
        key_material_id: options.key_material_id.to_owned(),
        key_material_description: options.key_material_description.to_owned(),
        expiration: Some(match expiration {
            Expiration::At(time) => WireExpiration::ValidTo(Timestamp::from(time)),
            Expiration::Never => WireExpiration::NeverExpires(true),
        }),
        ..ImportKeyMaterialRequest::default()
    }
}

fn require_same_key(key_arn: &str, key_id: &str) -> Result<(), Error> {
    if names_key(key_arn, key_id) {
        return Ok(());
    }
    let message = format!("the broker answered for {key_arn:?}, not for {key_id:?}; look at both keys");
    Err(Error::local(ErrorKind::OutcomeUnknown, message))
}
