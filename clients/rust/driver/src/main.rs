//! What the conformance tests tell to call the Rust client: see `tests/conformance/DRIVER.md` of keybroker.

mod unwrap;

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyimport::{
    Client, Code, Error, ErrorKind, Expiration, GetOptions, ImportOptions, ImportedKeyMaterial, MutualTls,
    aes_key_wrap, wrap,
};
use prost_types::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut client = None;
    while let Some(line) = lines.next_line().await? {
        let answer = match answer(&Ask(serde_json::from_str(&line)?), &mut client).await {
            Ok(ok) => json!({ "ok": ok }),
            Err(failure) => json!({ "error": described(failure)? }),
        };
        stdout().write_all(format!("{answer}\n").as_bytes()).await?;
        stdout().flush().await?;
    }
    Ok(())
}

/// The answer; [`Error`] and [`Misuse`] are answers too, and any other failure ends the driver.
async fn answer(ask: &Ask, client: &mut Option<Client>) -> Result<Value, Failure> {
    let operation = ask.text("do")?;
    match operation {
        "connect" => {
            *client = Some(connect(ask)?);
            return Ok(json!({}));
        }
        "wrap" => {
            let (algorithm, spec) = (ask.word("wrapping_algorithm")?, ask.word("wrapping_key_spec")?);
            let wrapped = wrap(&ask.bytes("material")?, &ask.bytes("public_key")?, algorithm, spec)?;
            return Ok(json!({ "wrapped": STANDARD.encode(wrapped) }));
        }
        "aes_key_wrap" => {
            let key = ask.bytes("key")?.try_into().map_err(|_| "key is none of AES-256")?;
            let wrapped = aes_key_wrap(&key, &ask.bytes("material")?)?;
            return Ok(json!({ "wrapped": STANDARD.encode(wrapped) }));
        }
        "unwrap" => {
            let (private_key, wrapped) = (ask.bytes("private_key")?, ask.bytes("wrapped")?);
            let material = unwrap::unwrap(&private_key, ask.word("wrapping_algorithm")?, &wrapped)?;
            return Ok(json!({ "material": STANDARD.encode(material) }));
        }
        _ => {}
    }
    let mut client = client.clone().ok_or("not connected")?;
    if let Some(milliseconds) = ask.0["timeout_ms"].as_f64() {
        client = client.with_timeout(Duration::try_from_secs_f64(milliseconds / 1000.0)?);
    }
    let key_id = ask.text("key_id")?;
    match operation {
        "get" => {
            let parameters = client.get_parameters(key_id, ask.get_options()?).await?;
            Ok(json!({
                "key_arn": parameters.key_arn,
                "public_key": STANDARD.encode(parameters.public_key),
                "import_token": STANDARD.encode(parameters.import_token),
                "parameters_valid_to": written(parameters.parameters_valid_to),
                "wrapping_algorithm": parameters.wrapping_algorithm.to_string(),
                "wrapping_key_spec": parameters.wrapping_key_spec.to_string(),
                "public_key_sha256": hexadecimal(&parameters.public_key_sha256),
                "source": parameters.source.to_string(),
            }))
        }
        "import" => {
            let (material, expiration) = (ask.bytes("material")?, ask.expiration()?);
            Ok(imported(&client.import_key_material(key_id, &material, expiration, ask.import_options()?).await?))
        }
        "import_wrapped" => {
            let (wrapped, token) = (ask.bytes("encrypted_key_material")?, ask.bytes("import_token")?);
            let (expiration, options) = (ask.expiration()?, ask.import_options()?);
            Ok(imported(&client.import_wrapped(key_id, &wrapped, &token, expiration, options).await?))
        }
        "delete" => {
            let deleted = client.delete_imported_key_material(key_id, ask.text_or_empty("key_material_id")).await?;
            Ok(json!({ "key_arn": deleted.key_arn, "key_material_id": deleted.key_material_id }))
        }
        "discard" => {
            client.discard(key_id, &ask.bytes("import_token")?).await?;
            Ok(json!({}))
        }
        "status" => {
            let status = client.status(key_id).await?;
            let mut answer = json!({
                "key_arn": status.key_arn,
                "key_spec": status.key_spec,
                "key_state": status.key_state,
                "external_origin": status.external_origin,
                "multi_region": status.multi_region,
            });
            if let Some(time) = status.material_valid_to {
                answer["material_valid_to"] = written(time).into();
            }
            Ok(answer)
        }
        _ => Err(format!("{operation:?} is nothing this driver does").into()),
    }
}

fn connect(ask: &Ask) -> Result<Client, Failure> {
    let target = ask.text("target")?;
    if ask.0["ca"].is_null() {
        return Ok(Client::connect(target)?);
    }
    let [ca, certificate, private_key] = ["ca", "certificate", "private_key"].map(|name| ask.text(name).map(fs::read));
    let (ca, certificate, private_key) = (ca??, certificate??, private_key??);
    let tls = MutualTls { ca: &ca, certificate: &certificate, private_key: &private_key };
    Ok(Client::connect_tls(target, tls)?)
}

fn imported(imported: &ImportedKeyMaterial) -> Value {
    let mut answer = json!({ "key_arn": imported.key_arn, "key_material_id": imported.key_material_id });
    if let Some(sha256) = imported.public_key_sha256 {
        answer["public_key_sha256"] = hexadecimal(&sha256).into();
    }
    answer
}

fn described(failure: Failure) -> Result<Value, Failure> {
    let error = match failure.downcast::<Error>() {
        Ok(error) => error,
        Err(failure) => {
            return failure.downcast::<Misuse>().map(|misuse| {
                json!({
                    "type": "ArgumentError", "reason": "", "code": "", "message": misuse.0, "field": "",
                    "metadata": {}, "retry_after_ms": null,
                })
            });
        }
    };
    Ok(json!({
        "type": match error.kind() {
            ErrorKind::Argument => "ArgumentError".to_owned(),
            ErrorKind::Other => "KeyImportError".to_owned(),
            kind => format!("{kind:?}"),
        },
        "reason": error.reason(),
        "code": error.code().map(capitals).unwrap_or_default(),
        "message": error.message(),
        "field": error.field().unwrap_or_default(),
        "metadata": error.metadata(),
        "retry_after_ms": error.retry_after().map(|delay| delay.as_secs_f64() * 1000.0),
    }))
}

/// `NotFound` as `NOT_FOUND`.
fn capitals(code: Code) -> String {
    let mut word = String::new();
    for (index, letter) in format!("{code:?}").char_indices() {
        if index > 0 && letter.is_ascii_uppercase() {
            word.push('_');
        }
        word.push(letter.to_ascii_uppercase());
    }
    word
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn written(time: SystemTime) -> String {
    Timestamp::from(time).to_string()
}

/// What the library's types already refuse.
#[derive(Debug)]
struct Misuse(&'static str);

impl fmt::Display for Misuse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for Misuse {}

/// One request.
struct Ask(Value);

impl Ask {
    fn text(&self, name: &str) -> Result<&str, Failure> {
        self.0[name].as_str().ok_or_else(|| format!("{name} is no string").into())
    }

    fn text_or_empty(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Failure> {
        Ok(STANDARD.decode(self.text(name)?)?)
    }

    /// The value of an enumeration; its first, which leaves the choice open, where the word is left out.
    fn word<T: FromStr<Err = Error> + Default>(&self, name: &str) -> Result<T, Error> {
        self.0[name].as_str().map_or_else(|| Ok(T::default()), str::parse)
    }

    fn expiration(&self) -> Result<Expiration, Failure> {
        match (self.0["valid_to"].as_str(), self.0["never_expires"].as_bool().unwrap_or_default()) {
            (Some(time), false) => Ok(Expiration::At(Timestamp::from_str(time)?.try_into()?)),
            (None, true) => Ok(Expiration::Never),
            _ => Err(Misuse("an Expiration is either At a time or Never").into()),
        }
    }

    fn get_options(&self) -> Result<GetOptions, Failure> {
        let seconds = self.0["min_remaining_seconds"].as_f64();
        Ok(GetOptions {
            wrapping_algorithm: self.word("wrapping_algorithm")?,
            wrapping_key_spec: self.word("wrapping_key_spec")?,
            min_remaining_validity: seconds
                .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|_| Misuse("a Duration is not negative")))
                .transpose()?,
            sharing: self.word("sharing")?,
        })
    }

    fn import_options(&self) -> Result<ImportOptions<'_>, Failure> {
        Ok(ImportOptions {
            get: self.get_options()?,
            import_type: self.word("import_type")?,
            key_material_id: self.text_or_empty("key_material_id"),
            key_material_description: self.text_or_empty("key_material_description"),
        })
    }
}
