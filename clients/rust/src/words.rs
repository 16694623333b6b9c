//! The enumerations of the API by the bare words that KMS uses for them, such as `RSAES_OAEP_SHA_256`.

use std::fmt;
use std::str::FromStr;

use crate::errors::{Error, ErrorKind};
use crate::v1::{ImportType, ParametersSource, Sharing, WrappingAlgorithm, WrappingKeySpec};

macro_rules! words {
    ($($kind:ty: $prefix:literal,)*) => {$(
        impl FromStr for $kind {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self, Error> {
                Self::from_str_name(&format!(concat!($prefix, "{}"), word))
                    .ok_or_else(|| Error::local(ErrorKind::Argument, format!("{word:?} is no {}", stringify!($kind))))
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str_name().trim_start_matches($prefix))
            }
        }
    )*};
}

words! {
    WrappingAlgorithm: "WRAPPING_ALGORITHM_",
    WrappingKeySpec: "WRAPPING_KEY_SPEC_",
    Sharing: "SHARING_",
    ParametersSource: "PARAMETERS_SOURCE_",
    ImportType: "IMPORT_TYPE_",
}
